"""The writer worker: one decision a fact, the history and the changelog."""
