"""mem0's wire format over HTTP, for its unmodified client: what it sends, and what it gets."""

from workers.http.mem0.routes import routes

__all__ = ["routes"]
