"""Compaction: small files of a history merged into large ones, while writers append and readers read.

Size-tiered, as in log-structured merge trees (O'Neil et al. 1996): of each size there are fewer than `FAN` files at any
time, except for large ones. A step is bounded. The files that a merge replaces are kept for a while, for readers that have
listed them, and then removed (`vacuum`).
"""

import json
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from pipeline.history import layout, storage
from pipeline.history.errors import disk_errors
from pipeline.history.layout import DataFile
from schemas.history import HISTORY

FAN = 32
"""Files of one size that are merged into one."""
LARGE_BYTES = 64 * 1024 * 1024
"""A file of this size is not merged any more. One step reads at most about twice that."""
GROUP_BYTES = 32 * 1024 * 1024
"""Size of a merged file's row groups, before compression."""
KEEP_S = 60.0
"""Seconds for which replaced files stay: longer than a reader, such as a query, may take (30 s)."""

_UNFINISHED = re.compile(r"\.[0-9]{10}-[0-9]{10}\..*\.tmp")


def step(data: Path, partition: int, now: float) -> bool:
    """Merges one group of files, if one is due, and removes old replaced ones. Returns whether more may be due.

    `now`: seconds since 1970. The process may be killed at any point: a merged file counts from the moment it has its name,
    and replaces the others from that moment on. Raises `HistoryError` for a damaged file; `Unwritable` when the disk refuses
    or another process holds the lock.
    """
    # The last version stays a file of its own: its writer may still have to carry out its erasures.
    if not _due(layout.live_files(data, partition)[:-1]) and not layout.replaced_files(data, partition):
        return False
    with storage.locked(layout.partition_folder(data, partition), wait_s=0.0):
        vacuum(data, partition, now - KEEP_S)
        if due := _due(layout.live_files(data, partition)[:-1]):
            merge(due, GROUP_BYTES)
    return bool(due)


def merge(files: Sequence[DataFile], group_bytes: int) -> Path:
    """Writes one file with the rows of these, which follow each other, durably. The caller holds the lock.

    Its row groups have about `group_bytes`. Raises `HistoryError`.
    """
    path = layout.merged_path(files)
    metadata = dict(HISTORY.metadata)
    counts: list[int] = []
    for file in files:
        footer = storage.read_metadata(file.path)
        counts += storage.row_counts(file, footer.metadata or {}, footer.num_rows)
        if storage.ERASED_KEY in (footer.metadata or {}):
            metadata[storage.ERASED_KEY] = b"1"
    metadata[storage.ROWS_KEY] = json.dumps(counts, separators=(",", ":")).encode()

    def groups() -> Iterator[pa.Table]:
        group: list[pa.Table] = []
        for file in files:
            group.append(storage.read_table(file.path).replace_schema_metadata(metadata))
            if sum(table.nbytes for table in group) >= group_bytes or file is files[-1]:
                yield pa.concat_tables(group).combine_chunks()
                group = []

    with disk_errors(path):
        storage.write(path, groups())
    return path


def vacuum(data: Path, partition: int, merged_before: float = math.inf) -> None:
    """Removes files that a merge has replaced before that time, and the unfinished files of merges.

    `merged_before`: seconds since 1970. The caller holds the lock.
    """
    for path, merged in layout.replaced_files(data, partition):
        if merged.stat().st_mtime <= merged_before:
            path.unlink(missing_ok=True)
    folder = layout.partition_folder(data, partition)
    for name in layout.file_names(folder):
        if _UNFINISHED.fullmatch(name):
            (folder / name).unlink(missing_ok=True)


def _due(files: list[DataFile]) -> list[DataFile]:
    """The oldest files of the lowest tier that has enough of them in a row."""
    best: list[DataFile] = []
    group: list[DataFile] = []
    group_bytes = 0
    for file in files:
        size = file.path.stat().st_size
        if size >= LARGE_BYTES or (group and _tier(group[0]) != _tier(file)):
            group, group_bytes = [], 0
        if size < LARGE_BYTES:
            group.append(file)
            group_bytes += size
            if len(group) == FAN or (group_bytes >= LARGE_BYTES and len(group) > 1):
                if not best or _tier(group[0]) < _tier(best[0]):
                    best = group
                group, group_bytes = [], 0
    return best


def _tier(file: DataFile) -> int:
    """How often its rows were merged: the logarithm of its number of versions to the base FAN, rounded down."""
    versions, tier = file.last - file.first + 1, 0
    while versions >= FAN:
        versions, tier = versions // FAN, tier + 1
    return tier
