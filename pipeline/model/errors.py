"""The error of everything that concerns a model, and the progress callback of what takes long."""

from collections.abc import Callable

Progress = Callable[[str], None]
"""Called with one line of text when a long step begins."""


class ModelError(Exception):
    """A model that cannot be loaded or used; the message says what to do about it."""


def silent(message: str) -> None:
    """A progress callback that prints nothing."""
