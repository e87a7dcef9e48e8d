"""Encoding: a text becomes the numbers that the memory keeps and compares."""
