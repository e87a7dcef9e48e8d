"""Policy: the decisions about facts, forgets and uses, given a bank that it does not change."""
