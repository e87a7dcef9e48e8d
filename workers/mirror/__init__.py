"""The mirror: the history as a Delta table, for engines that read tables."""
