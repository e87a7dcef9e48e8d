"""Stores of the history: a folder, or a bucket of an object store with local copies of its files."""
