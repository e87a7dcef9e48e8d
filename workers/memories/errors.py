"""Errors of changes to memories, for every interface to tell in its own way."""


class NotFound(Exception):
    """No memory, event or entity has this id. The text says so, and what replaced it."""


class Busy(Exception):
    """Too much is waiting already. Try again."""


class Unavailable(Exception):
    """The broker or the workers do not answer in time. The text says what to check."""
