"""Bulk jobs: facts are encoded outside of the stream, from files, and loaded into it."""
