"""The store: where a history is kept, and the steps by which a writer changes it.

Two implementations: `Folder`, a local or shared file system, and `ObjectStore`, a bucket. Both keep the files of
pipeline/history/layout.py, and every reader reads local files: a folder's own, or copies of a bucket's objects.
"""

from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from pipeline.memory.events import Decision


class Store(Protocol):
    """A history, its answers and its dead letters. Every method raises `HistoryError`."""

    @property
    def where(self) -> str:
        """The store's folder or URL, for people."""

    @property
    def linger_s(self) -> float:
        """Seconds for which a busy writer gathers what it appends as one version: an append may cost money."""

    def check(self) -> list[str]:
        """Refuses a store that cannot keep a history; returns remarks about one that can."""

    # --- a writer ---

    def partitions(self) -> list[int]:
        """The partitions that have a history, ascending."""

    def take(self, partition: int) -> None:
        """Makes this process the partition's owner. What an owner before it has not finished will not count."""

    def keep(self, partitions: Collection[int]) -> None:
        """Gives up all other partitions: what this machine has of them would miss their erasures."""

    def is_current(self, partition: int, version: int) -> bool:
        """Whether `version` is the partition's last one, and no other process has taken it."""

    def append(self, partition: int, version: int, decisions: Sequence[Decision]) -> None:
        """Writes decisions as `version`, durably; two processes cannot both succeed. Raises `CommitConflict`."""

    def files(self, partition: int) -> Path:
        """A data folder with all files of an owned partition, to be read only."""

    def change(self, partition: int, rows: bool = False) -> AbstractContextManager[Path]:
        """A data folder in which the block rearranges an owned partition: compaction, checkpoints, erasure.

        With `rows`, also the answers and dead letters. What the block did counts when it has ended, if this process is
        still the owner; otherwise `CommitConflict` is raised, and none of it counts, unless it lost the partition just then.
        """

    def add(self, folder: str, rows: list[dict[str, Any]], name: str) -> None:
        """Keeps answers or dead letters (pipeline/history/tables.py) under a name. May be repeated."""

    # --- a reader ---

    def view(self, partition: int | None = None, rows: bool = True) -> AbstractContextManager[Path]:
        """A data folder with the files as they are now: of all partitions or of one; with `rows`, answers and dead letters."""
