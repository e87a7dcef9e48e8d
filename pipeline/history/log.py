"""Log of decisions: one Parquet file for each version of a partition, written once and read in order.

The log is the truth: the memory is a fold over it. A file appears whole or not at all, and only one writer gets a version. A
damaged file is refused. Compaction merges files, and an erasure blanks rows; both keep every version readable.
"""

import re
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from pathlib import Path

import pyarrow as pa

from pipeline.history import layout, storage
from pipeline.history.errors import CommitConflict, HistoryError, damaged, disk_errors
from pipeline.history.layout import DataFile
from pipeline.memory.codec import decisions_from_table, decisions_to_table
from pipeline.memory.events import Decision

MAX_ROWS = 1_000_000
"""Most decisions of a version. The query views number rows by version · MAX_ROWS."""

_TEMPORARY = re.compile(r"\.([0-9]{10})\..*\.tmp")


def append(data: Path, partition: int, version: int, decisions: Sequence[Decision]) -> Path:
    """Writes decisions as `version`, durably, and returns the file's path.

    Raises `CommitConflict` if that version exists, and `HistoryError` if the one before it is missing or the disk refuses.
    """
    return append_table(data, partition, version, decisions_to_table(decisions))


def append_table(data: Path, partition: int, version: int, table: pa.Table) -> Path:
    """The same as `append`, for a table of schemas.history.HISTORY."""
    check_size(table)
    path = layout.version_path(data, partition, version)
    if version > 0 and not layout.version_path(data, partition, version - 1).exists():
        _check_not_merged(data, partition, version)
        raise HistoryError(f"{path}: the file before it is missing, and a history has no gaps; fold it again")
    with disk_errors(path):
        _write_once(path, table)
        try:
            # Compaction may have merged and removed another writer's file: then its name was free again.
            _check_not_merged(data, partition, version)
        except CommitConflict:
            path.unlink(missing_ok=True)  # readers ignore it, since the merged file exists
            raise
        _remove_temporary_files(path.parent, version)
    return path


def check_size(table: pa.Table) -> None:
    """Raises ValueError for a table with more rows than a version takes."""
    if table.num_rows > MAX_ROWS:
        raise ValueError(f"{table.num_rows} decisions; a version takes at most {MAX_ROWS}")


def read(data: Path, partition: int, after: int = -1) -> Iterator[tuple[int, list[Decision]]]:
    """The versions that follow `after`, in order, each with its decisions.

    Raises `HistoryError` for a gap, and for a file that is damaged or has a newer format.
    """
    files = layout.complete_files(data, partition)
    end, version = files[-1].last if files else -1, after + 1
    while version <= end:
        file = next(file for file in files if file.first <= version <= file.last)
        try:
            batches = _read_versions(file)
        except HistoryError:
            if file.path.exists():
                raise
            files = layout.complete_files(data, partition)  # compaction has merged and removed it meanwhile
            if file in files:
                raise
            continue
        for number, decisions in enumerate(batches, file.first):
            if version <= number <= end:
                yield number, decisions
        version = file.last + 1


def _write_once(path: Path, table: pa.Table) -> None:
    """Writes the file of a version, unless another writer has."""
    try:
        storage.write(path, [table], exclusive=True)
    except FileExistsError:
        raise _conflict(path) from None
    except FileNotFoundError:
        if path.exists():  # the other writer has removed our temporary file
            raise _conflict(path) from None
        raise


def _check_not_merged(data: Path, partition: int, version: int) -> None:
    """Raises `CommitConflict` where another writer wrote this version, and it was merged since."""
    if layout.is_merged(data, partition, version):
        raise _conflict(layout.version_path(data, partition, version))


def _conflict(path: Path) -> CommitConflict:
    return CommitConflict(f"{path}: another writer wrote it first; fold the history again")


def _remove_temporary_files(folder: Path, version: int) -> None:
    """Removes temporary files of versions up to this one, which no other writer can write any more."""
    for name in layout.file_names(folder):
        if (match := _TEMPORARY.fullmatch(name)) and int(match[1]) <= version:
            (folder / name).unlink(missing_ok=True)


def _read_versions(file: DataFile) -> Iterator[list[Decision]]:
    """The decisions of each version of a file. A damaged one is refused before the first of them."""
    table = storage.read_table(file.path)
    counts = storage.row_counts(file, table.schema.metadata, table.num_rows)
    ends = list(accumulate(counts, initial=0))
    return (_decisions(file.path, table.slice(start, end - start)) for start, end in pairwise(ends))


def _decisions(path: Path, table: pa.Table) -> list[Decision]:
    try:
        return decisions_from_table(table, storage.ERASED_KEY in (table.schema.metadata or {}))
    except (pa.ArrowException, ValueError, OverflowError, MemoryError) as error:
        raise damaged(path, error) from error
