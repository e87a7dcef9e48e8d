"""The error for a model that cannot be used, and the progress callbacks of long steps."""

from collections.abc import Callable

Progress = Callable[[str], None]
"""Called with one line of text when a long step begins."""

Step = Callable[[str, int, int], object]
"""Called with the name of a step, the number of items done since the last call, and their total."""


class ModelError(Exception):
    """A model that cannot be loaded or used; the message says what to do about it."""


def silent(message: str) -> None:
    """A progress callback that prints nothing."""


def no_step(what: str, more: int, total: int) -> None:
    """A step callback that tells nobody."""
