"""Bulk commands: facts and memories are encoded outside of the stream, and loaded into it."""
