"""Fusion and generation: memories gated into the model's next-token distribution."""
