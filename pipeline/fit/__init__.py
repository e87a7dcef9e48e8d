"""Fit of the learned weights: examples from scenarios, training, and what it gives on domains left out."""
