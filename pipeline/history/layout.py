"""Layout of the history on disk: the names of its files, and which of them count.

    history/partition=3/0000000042.parquet               version 42: the decisions of one batch
    history/partition=3/0000000032-0000000063.parquet    versions 32 to 63, merged by compaction
    generations/NAME.parquet, dead_letters/NAME.parquet  tables without versions (tables.py)

The versions of a partition begin at 0 and have no gap. Where a merged file exists beside files that it was made of, the
merged one is live and the others are replaced: they have no rows of their own. Every function takes the data folder.
"""

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from pipeline.history.errors import HistoryError

HISTORY_FOLDER = "history"
GENERATIONS_FOLDER = "generations"
DEAD_LETTERS_FOLDER = "dead_letters"

_PARTITION = re.compile(r"partition=(0|[1-9][0-9]*)")
_DATA_FILE = re.compile(r"([0-9]{10})(?:-([0-9]{10}))?\.parquet")
_LISTINGS = 5  # tries to list a folder that changes meanwhile


class DataFile(NamedTuple):
    """A file that holds the decisions of the versions `first` to `last`."""

    first: int
    last: int
    path: Path

    @property
    def is_merged(self) -> bool:
        return self.first < self.last


def partitions(data: Path) -> list[int]:
    """The partitions that have a history, ascending."""
    return partitions_of(file_names(data / HISTORY_FOLDER))


def partitions_of(names: Iterable[str]) -> list[int]:
    """The partitions whose folders have these names, ascending."""
    matches = (_PARTITION.fullmatch(name) for name in names)
    return sorted(int(match[1]) for match in matches if match)


def partition_folder(data: Path, partition: int) -> Path:
    """The folder of a partition's history."""
    return data / HISTORY_FOLDER / f"partition={partition}"


def version_path(data: Path, partition: int, version: int) -> Path:
    """The file that the writer writes for a version."""
    return partition_folder(data, partition) / f"{version:010d}.parquet"


def merged_path(files: Sequence[DataFile]) -> Path:
    """The file that replaces these, which follow each other."""
    first, last = files[0], files[-1]
    return first.path.with_name(f"{first.first:010d}-{last.last:010d}.parquet")


def last_version(data: Path, partition: int) -> int:
    """The partition's last version; -1 if it has none."""
    return max((file.last for file in _all_files(data, partition)), default=-1)


def live_files(data: Path, partition: int) -> list[DataFile]:
    """The files that together hold each row once, in order. They may have a gap, which the caller has to refuse."""
    live: list[DataFile] = []
    for _ in range(_LISTINGS):  # a listing may miss a file that is added or removed meanwhile
        live = _live(_all_files(data, partition))
        if _missing(live) is None:
            break
    return live


def complete_files(data: Path, partition: int) -> list[DataFile]:
    """The live files. Raises `HistoryError` where a version is missing."""
    live = live_files(data, partition)
    if (missing := _missing(live)) is not None:
        path = version_path(data, partition, missing)
        raise HistoryError(f"{path}: missing, though later files exist; restore it from a backup")
    return live


def replaced_files(data: Path, partition: int) -> list[tuple[Path, Path]]:
    """Files that compaction has merged and not removed yet, in order, each with the live file that has its rows."""
    files, replaced = _all_files(data, partition), []
    rest = iter(_live(files))
    live = next(rest, None)
    for file in sorted(files, key=_order):
        while live and live.last < file.first:
            live = next(rest, None)
        if live and live.first <= file.first and file.last <= live.last and file != live:
            replaced.append((file.path, live.path))
    return replaced


def is_merged(data: Path, partition: int, version: int) -> bool:
    """Whether a merged file has this version."""
    return any(file.is_merged and file.first <= version <= file.last for file in _all_files(data, partition))


def file_names(folder: Path) -> list[str]:
    """The names in a folder, in no order; none where it is missing. Raises `HistoryError`."""
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise HistoryError(f"{folder}: cannot be listed: {error.strerror}; check its permissions") from error


def live_names(names: Iterable[str]) -> list[str]:
    """The names among these, of one partition's files, whose files are live, in order."""
    return [file.path.name for file in _live(_data_files(Path(), names))]


def _all_files(data: Path, partition: int) -> list[DataFile]:
    """Live and replaced files, in no order."""
    folder = partition_folder(data, partition)
    return _data_files(folder, file_names(folder))


def _data_files(folder: Path, names: Iterable[str]) -> list[DataFile]:
    matches = (_DATA_FILE.fullmatch(name) for name in names)
    return [DataFile(int(m[1]), int(m[2] or m[1]), folder / m[0]) for m in matches if m]


def _order(file: DataFile) -> tuple[int, int]:
    """The order of files: by version, a merged file before the files that it replaces."""
    return file.first, -file.last


def _live(files: Iterable[DataFile]) -> list[DataFile]:
    """The live ones of all files, in order."""
    live: list[DataFile] = []
    for file in sorted(files, key=_order):
        if not live or file.first > live[-1].last:
            live.append(file)
    return live


def _missing(files: Sequence[DataFile]) -> int | None:
    """The first version that no file has, though a later one does."""
    expected = 0
    for file in files:
        if file.first != expected:
            return expected
        expected = file.last + 1
    return None
