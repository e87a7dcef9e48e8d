"""Decoding without transformers' Python: the same arithmetic in one loop over the layers."""
