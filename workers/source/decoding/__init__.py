"""Bytes to Python values: JSON, Connect's JSON, and what a schema registry describes."""
