"""Errors of the history. Each names the file and a remedy."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class HistoryError(Exception):
    """The history cannot be read or written."""


class Unwritable(HistoryError):
    """The disk refuses, or another process holds the lock. Nothing was changed, and a later try may succeed."""


class CommitConflict(HistoryError):
    """Another writer wrote this version first. Fold the history again, and decide again."""


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Raises an OSError of the block as `Unwritable`, with the path that was to be written."""
    try:
        yield
    except OSError as error:
        why = error.strerror or str(error)
        raise Unwritable(
            f"{path}: cannot be written: {why}; check the space and the permissions there"
        ) from error


def damaged(path: Path, error: object) -> HistoryError:
    """The error for a damaged file."""
    return HistoryError(f"{path}: cannot be read: {error}; restore it from a backup"[:1000])
