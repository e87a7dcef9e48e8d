"""The error for a model that cannot be used, and the progress callback of long steps."""

from collections.abc import Callable

Progress = Callable[[str], None]
"""Called with one line of text when a long step begins."""


class ModelError(Exception):
    """A model that cannot be loaded or used; the message says what to do about it."""


def silent(message: str) -> None:
    """A progress callback that prints nothing."""
