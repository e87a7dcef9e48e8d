"""Synthetic inputs of the measurements: texts, encoded facts and memory banks of any size."""
