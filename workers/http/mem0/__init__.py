"""mem0's wire format over HTTP, for its unmodified client: what it sends, and what it gets."""
