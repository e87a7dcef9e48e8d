"""Retrieval: which memories a prompt concerns, and how far their gates open."""
