"""The encoder worker: facts in, measured facts out."""
