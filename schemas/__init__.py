"""Schemas of the messages on every topic and of the columns on disk: one module per message."""
