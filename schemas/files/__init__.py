"""Formats of files that leave the data folder."""
