"""OpenAI's API over the model with its memory: chats, completions, embeddings, models."""

from workers.http.openai.routes import routes
from workers.http.openai.shapes import problem

__all__ = ["problem", "routes"]
