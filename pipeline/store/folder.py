"""A history in a folder: of this machine, or of a file system that has hard links.

Appending is a hard link, which fails where the name exists; whoever rearranges files holds the folder's lock (flock).
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.history import layout, log, tables
from pipeline.memory.events import Decision


class Folder:
    """The data folder: see `Store`."""

    def __init__(self, data: Path) -> None:
        self._data = data

    @property
    def where(self) -> str:
        return str(self._data)

    @property
    def linger_s(self) -> float:
        return 0.0

    def check(self) -> list[str]:
        return []

    def partitions(self) -> list[int]:
        return layout.partitions(self._data)

    def take(self, partition: int) -> None:
        """Nothing: the lock keeps a process that lost the partition from rearranging what it read before."""

    def keep(self, partitions: Collection[int]) -> None:
        """Nothing: the folder has no copies."""

    def is_current(self, partition: int, version: int) -> bool:
        return version == layout.last_version(self._data, partition)

    def append(self, partition: int, version: int, decisions: Sequence[Decision]) -> None:
        log.append(self._data, partition, version, decisions)

    def files(self, partition: int) -> Path:
        return self._data

    @contextmanager
    def change(self, partition: int, rows: bool = False) -> Iterator[Path]:
        yield self._data

    def add(self, folder: str, rows: list[dict[str, Any]], name: str) -> None:
        tables.append(self._data, folder, rows, name)

    @contextmanager
    def view(self, partition: int | None = None, rows: bool = True) -> Iterator[Path]:
        yield self._data
