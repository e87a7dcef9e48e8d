"""Files that appear whole or not at all, locks between processes, and folders made durable.

A lock is an advisory flock, which the kernel releases when its process ends.
"""

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock, Timeout, lock_descriptor


class Locked(Exception):
    """Another process, or another thread of this one, holds the lock."""


@contextmanager
def atomic_file(path: Path, *, durable: bool = True, exclusive: bool = False) -> Iterator[BinaryIO]:
    """A file to write, which appears under the name `path` when the block ends without an error.

    Until then it is `.STEM.RANDOM.tmp` in the same folder, which is created if it is missing. With `durable` the content
    and the name are on the disk when the block has ended. With `exclusive` an existing file is kept, and FileExistsError
    raised; otherwise it is replaced. Raises OSError where the disk refuses, and then leaves nothing of the file.
    """
    make_folder(path.parent)
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        if exclusive:
            os.link(name, path)  # fails where the name exists; a rename would replace it
        else:
            os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)
    if durable:
        sync_folder(path.parent)


def make_folder(path: Path) -> None:
    """Makes a folder and its missing parents, and their names durable. Raises OSError."""
    if not path.is_dir():
        make_folder(path.parent)
        path.mkdir(exist_ok=True)
        try:
            sync_folder(path.parent)
        except OSError:
            path.rmdir()  # so that the next try makes it again, with a durable name
            raise


def sync_folder(path: Path) -> None:
    """Makes the names in a folder durable. Raises OSError."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def lines(path: Path, most: int) -> Iterator[bytes]:
    """The lines of a file, with their ends; of one that is longer than `most` bytes only so many. Raises OSError."""
    with path.open("rb") as file:
        while line := file.readline(most):
            yield line
            while line and not line.endswith(b"\n"):  # the rest of a line that is too long
                line = file.readline(most)


@contextmanager
def locked(path: Path, timeout_s: float | None = None) -> Iterator[None]:
    """Holds the lock file `path`, which is made where it is missing and stays, for the length of the block.

    Waits for it without end, or raises `Locked` after `timeout_s` seconds. Raises OSError where it cannot be opened.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path, -1 if timeout_s is None else timeout_s)  # polls every 50 ms
    try:
        lock.acquire()
    except Timeout as error:  # which is an OSError, too
        raise Locked(f"{path}: another process holds it") from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def shared(path: Path) -> Iterator[None]:
    """Keeps others from holding `locked(path)` for the length of the block, which any number may do at once.

    Waits for who holds it. Raises OSError where it cannot be opened.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        yield


def is_locked(path: Path) -> bool:
    """Whether the lock file is held now. Needs read permission only. Raises OSError where it cannot be read."""
    if not path.is_file():
        return False
    with path.open() as file:
        return not lock_descriptor(file.fileno(), blocking=False)
