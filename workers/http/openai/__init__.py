"""OpenAI's API over the frozen model with its memory: chats, completions, embeddings, and the list of models."""

from workers.http.openai.routes import routes
from workers.http.openai.shapes import problem

__all__ = ["problem", "routes"]
