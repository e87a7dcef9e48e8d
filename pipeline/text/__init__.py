"""Text analysis: words, names, clauses and word frequencies, with no model and no memory."""
