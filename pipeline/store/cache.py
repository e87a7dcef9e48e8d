"""The cache of readers: copies of the partitions that were read last, on this machine, within a size.

Queries, the page, exports and digests share it, and read its files as those of any data folder. What the store has erased
leaves the cache when it is read next.
"""

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from pipeline import files
from pipeline.history import layout
from pipeline.history.errors import HistoryError, Unwritable, disk_errors
from pipeline.store import copies, manifests
from pipeline.store.bucket import Bucket

LOCK_WAIT_S = 120.0
"""Longest wait while another process copies, or reads what has to be evicted."""


class Cache:
    """A data folder with copies of some partitions, and of the answers and dead letters."""

    def __init__(self, bucket: Bucket, folder: Path, limit_bytes: int) -> None:
        self._bucket, self._folder, self._limit_bytes = bucket, folder, limit_bytes

    @contextmanager
    def view(self, partitions: Sequence[int], rows: bool) -> Iterator[Path]:
        """The folder, after these partitions are in it as they are now; during the block none is evicted. Raises `HistoryError`."""
        with ExitStack() as reading:
            with self._locked(".lock"):
                copies.retried(lambda: self._copy(partitions, rows))
                reading.enter_context(files.shared(self._folder / ".reading"))
            yield self._folder

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        with disk_errors(self._folder):
            try:
                with files.locked(self._folder / name, LOCK_WAIT_S):
                    yield
            except files.Locked as error:
                raise Unwritable(f"{error}; try again") from None

    def _copy(self, partitions: Sequence[int], rows: bool) -> None:
        objects = {
            layout.partition_folder(self._folder, n): copies.live(n, *manifests.newest(self._bucket, n))
            for n in partitions
        }
        for table in copies.TABLES if rows else ():
            objects[self._folder / table] = copies.rows(self._bucket, table)
        needed = sum(found.size for own in objects.values() for found in own.values())
        if needed > self._limit_bytes:
            raise HistoryError(
                f"{self._bucket.where}: this reads {needed >> 20} MiB, and the cache may have {self._limit_bytes >> 20}: "
                "raise FACTSTREAM_STORE_CACHE_MB, or read one partition at a time (export, digest)"
            )
        self._evict(self._limit_bytes - needed, {*objects})
        for place, own in objects.items():
            copies.bring(self._bucket, place, own)
            os.utime(place)

    def _evict(self, room: int, kept: set[Path]) -> None:
        """Removes the folders that were read longest ago, until the others have no more than `room` bytes."""
        folders = [layout.partition_folder(self._folder, n) for n in layout.partitions(self._folder)]
        folders += [self._folder / table for table in copies.TABLES]
        others = [folder for folder in folders if folder not in kept and folder.is_dir()]
        evicted = []
        for folder in sorted(others, key=lambda folder: folder.stat().st_mtime, reverse=True):
            room -= sum(path.stat().st_size for path in folder.iterdir())
            if room < 0:
                evicted.append(folder)
        if evicted:
            with self._locked(".reading"):
                for folder in evicted:
                    shutil.rmtree(folder)
