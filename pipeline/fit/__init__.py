"""Fit of the learned weights: examples from scenarios, and training."""
