"""Policy: what becomes of a fact, given a bank that it does not change."""
