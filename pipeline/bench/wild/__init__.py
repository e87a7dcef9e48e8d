"""Measurement of the memory on facts as people write them."""
