"""Measurements of the memory: how well it recalls, what it costs, and how fast each step is."""
