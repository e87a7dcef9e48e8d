"""The error of an id, for every interface to tell in its own way."""


class NotFound(Exception):
    """No memory, event or entity has this id. The text says so, and what replaced it."""
