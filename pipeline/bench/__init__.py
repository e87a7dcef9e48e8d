"""Measurements of recall, speed and size, as library functions that print nothing."""
