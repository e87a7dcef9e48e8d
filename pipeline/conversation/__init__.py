"""Conversations: what people say becomes facts, by plain rules for English. No model is asked."""
