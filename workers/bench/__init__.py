"""Measurements of the running stack: writer, replica, stream."""
