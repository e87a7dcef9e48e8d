"""The encoder worker: facts in, encoded facts out."""
