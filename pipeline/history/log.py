"""The history on disk: Parquet files that are written once, whole or not at all, and changed by an erasure only.

Knows files: their names, their order, that only one writer gets a number, that a damaged one is refused. One file a batch,
`0000000042.parquet`; several that follow each other may have been merged into one, `0000000032-0000000063.parquet`
(pipeline/history/compaction.py), and whoever sees both takes the merged one. Every function takes the data folder. Knows nothing of
what a decision means, and keeps no rows in memory.
"""

import fcntl
import json
import os
import re
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.memory.codec import decisions_from_table, decisions_to_table
from pipeline.memory.events import Decision
from schemas.dead_letter import DEAD_LETTERS
from schemas.history import GENERATIONS, HISTORY

HISTORY_FOLDER = "history"
GENERATIONS_FOLDER = "generations"
DEAD_LETTERS_FOLDER = "dead_letters"

MAX_ROWS = 1_000_000
"""Most decisions of one file; the query views number rows by it."""

_VERSION_KEY = b"factstream.history"
_VERSIONS = (b"1", b"2")  # that are read: see schemas/history.py
_ERASED_KEY = b"factstream.erased"
_ROWS_KEY = b"factstream.rows"  # of a merged file: how many rows each of its numbers has, as JSON
_PARTITION = re.compile(r"partition=(0|[1-9][0-9]*)")
_FILE = re.compile(r"([0-9]{10})(?:-([0-9]{10}))?\.parquet")
_TEMPORARY = re.compile(r"\.([0-9]{10})\..*\.tmp")
MERGING = re.compile(r"\.[0-9]{10}-[0-9]{10}\..*\.tmp")
"""What a merge has not finished."""
_NAMED = set[Path]()  # folders whose own names this process has made durable: one a partition
_LOOKS = 5  # at a folder that changes meanwhile
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")


class HistoryError(Exception):
    """The history cannot be read or written; the text names the file and what to do."""


class Unwritable(HistoryError):
    """The disk refuses, or another process is at it: it may go better later, and nothing was changed."""


class SequenceTaken(HistoryError):
    """Another writer wrote this number first: fold again and decide anew."""


class Part(NamedTuple):
    """A file that holds the rows of the numbers `first` to `last`."""

    first: int
    last: int
    path: Path


def partitions(folder: Path) -> list[int]:
    """The partitions that have a history, ascending."""
    matches = (_PARTITION.fullmatch(name) for name in _names(folder / HISTORY_FOLDER))
    return sorted(int(match[1]) for match in matches if match)


def last_sequence(folder: Path, partition: int) -> int:
    """The number of the partition's last file; -1 if it has none."""
    return max((part.last for part in _all_parts(folder, partition)), default=-1)


def parts(folder: Path, partition: int) -> list[Part]:
    """The files that together hold each row once, in order; a gap between two of them is for the caller to refuse."""
    live: list[Part] = []
    for _ in range(_LOOKS):  # a listing may miss what comes, or lack what goes, while it is made
        live = _live(_all_parts(folder, partition))
        if _gap(live) is None:
            break
    return live


def merged_away(folder: Path, partition: int) -> list[tuple[Path, Path]]:
    """Files that a merge has left, each with the one that has all its rows. In order."""
    found, left = _all_parts(folder, partition), []
    into = iter(_live(found))
    live = next(into, None)
    for part in sorted(found, key=_order):
        while live and live.last < part.first:
            live = next(into, None)
        if live and live.first <= part.first and part.last <= live.last and part != live:
            left.append((part.path, live.path))
    return left


def append(folder: Path, partition: int, sequence: int, decisions: Sequence[Decision]) -> Path:
    """Writes file number `sequence`, durably, and returns its path.

    It appears whole or not at all, and only if nobody wrote that number before: raises `SequenceTaken` then, and
    `HistoryError` if the disk refuses or the file before it is missing.
    """
    return append_table(folder, partition, sequence, decisions_to_table(decisions))


def append_table(folder: Path, partition: int, sequence: int, table: pa.Table) -> Path:
    """The same of decisions as a table of schemas.history.HISTORY."""
    if table.num_rows > MAX_ROWS:
        raise ValueError(f"{table.num_rows} decisions; one file takes at most {MAX_ROWS}")
    path = _path(folder, partition, sequence)
    if sequence > 0 and not _path(folder, partition, sequence - 1).exists():
        _refuse_if_merged(folder, partition, sequence)
        raise HistoryError(f"{path}: the file before it is missing, and a history has no gaps; fold it again")
    try:
        temporary = _write_temporary(path, [table])
        try:
            os.link(temporary, path)  # fails where the name exists, as no rename does
        except FileExistsError:
            raise SequenceTaken(f"{path}: another writer wrote it first; fold the history again") from None
        except FileNotFoundError:  # whoever wrote this number has cleaned up after us
            if path.exists():
                raise SequenceTaken(
                    f"{path}: another writer wrote it first; fold the history again"
                ) from None
            raise
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(path.parent)
        # The name is free again where whoever wrote it has merged it since. Of the two the merged file counts.
        _refuse_if_merged(folder, partition, sequence, path)
        # Up to this number nobody else can win any more, so what others left half written is of no use to them.
        for name in _names(path.parent):
            if (match := _TEMPORARY.fullmatch(name)) and int(match[1]) <= sequence:
                (path.parent / name).unlink(missing_ok=True)
    except OSError as error:
        raise _unwritable(path, error) from error
    return path


def _refuse_if_merged(folder: Path, partition: int, sequence: int, written: Path | None = None) -> None:
    if any(part.first <= sequence <= part.last > part.first for part in _all_parts(folder, partition)):
        if written:
            written.unlink(missing_ok=True)
        path = _path(folder, partition, sequence)
        raise SequenceTaken(f"{path}: another writer wrote it first; fold the history again")


def read(folder: Path, partition: int, after: int = -1) -> Iterator[tuple[int, list[Decision]]]:
    """The batches behind number `after`, in order, as (sequence, rows).

    Raises `HistoryError` for a gap, and for a file that is damaged or of a newer version.
    """
    found = _whole(folder, partition)
    end, sequence = found[-1].last if found else -1, after + 1
    while sequence <= end:
        part = next(part for part in found if part.first <= sequence <= part.last)
        try:
            batches = _read_part(part)
        except HistoryError:
            if part.path.exists():
                raise
            found = _whole(folder, partition)  # it was merged with others meanwhile
            if part in found:
                raise
            continue
        for number, rows in enumerate(batches, part.first):
            if sequence <= number <= end:
                yield number, rows
        sequence = part.last + 1


def position_after(part: Part, sequence: int) -> int:
    """Where in the query's order the batch behind `sequence`, which the file has, begins. Raises `HistoryError`."""
    if part.first == part.last:
        return (sequence + 1) * MAX_ROWS
    metadata = _metadata(part.path)
    counts = _counts(part, metadata.metadata or {}, metadata.num_rows)
    return part.first * MAX_ROWS + sum(counts[: sequence - part.first + 1])


def check_version(path: Path) -> None:
    """Raises `HistoryError` unless the file is a history of a version that this factstream reads."""
    _check_version(path, _metadata(path).metadata or {})


def append_generations(folder: Path, rows: list[dict[str, Any]], name: str) -> None:
    """Writes `generations/<name>.parquet`, whole; the same name again replaces it. Columns: schemas.history."""
    _replace(folder / GENERATIONS_FOLDER, rows, name, GENERATIONS)


def append_dead_letters(folder: Path, rows: list[dict[str, Any]], name: str) -> None:
    """Writes `dead_letters/<name>.parquet`, whole; the same name again replaces it. Columns: schemas.dead_letter."""
    _replace(folder / DEAD_LETTERS_FOLDER, rows, name, DEAD_LETTERS)


def files(folder: Path, partition: int) -> list[Path]:
    """The partition's files, in order."""
    return [part.path for part in parts(folder, partition)]


@contextmanager
def locked(folder: Path, patience_s: float = 5.0) -> Iterator[None]:
    """Of all processes only this one changes files of the folder meanwhile. Raises `Unwritable` when another one does.

    The lock ends with its process, however that ends. Who only adds files needs none.
    """
    path = folder / ".lock"
    try:
        with path.open("a") as file:
            end = time.monotonic() + patience_s
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > end:
                        raise Unwritable(f"{path}: another process holds it; it is tried again") from None
                    time.sleep(0.05)
            yield
    except OSError as error:
        raise _unwritable(path, error) from error


def replace(path: Path, table: pa.Table) -> None:
    """Writes a file anew, durably, whole or not at all. Under `locked`, and for erasures only."""
    metadata = (table.schema.metadata or {}) | {_ERASED_KEY: b"1"}
    if _VERSION_KEY in metadata:
        metadata[_VERSION_KEY] = _VERSIONS[-1]
    _put(path, [table.replace_schema_metadata(metadata)])


def merge(partition_parts: Sequence[Part], group_bytes: int) -> Path:
    """One file with the rows of these, which follow each other; it counts instead of them from the moment it has its name.

    Durable when this returns. Under `locked`. Row groups have about `group_bytes`. Raises `HistoryError`.
    """
    first, last = partition_parts[0], partition_parts[-1]
    path = first.path.with_name(f"{first.first:010d}-{last.last:010d}.parquet")
    counts: list[int] = []
    metadata = dict(HISTORY.metadata)
    for part in partition_parts:
        said = _metadata(part.path)
        counts += _counts(part, said.metadata or {}, said.num_rows)
        metadata |= {_ERASED_KEY: b"1"} if _ERASED_KEY in (said.metadata or {}) else {}
    metadata[_ROWS_KEY] = json.dumps(counts, separators=(",", ":")).encode()

    def groups() -> Iterator[pa.Table]:
        waiting: list[pa.Table] = []
        for part in partition_parts:
            waiting.append(read_table(part.path).replace_schema_metadata(metadata))
            if sum(table.nbytes for table in waiting) >= group_bytes or part is last:
                yield pa.concat_tables(waiting).combine_chunks()
                waiting = []

    _put(path, groups())
    return path


# --- files ---


def folder_of(folder: Path, partition: int) -> Path:
    return folder / HISTORY_FOLDER / f"partition={partition}"


def _path(folder: Path, partition: int, sequence: int) -> Path:
    return folder_of(folder, partition) / f"{sequence:010d}.parquet"


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise HistoryError(f"{folder}: cannot be listed: {error.strerror}; check its permissions") from error


def _all_parts(folder: Path, partition: int) -> list[Part]:
    """Each file, those that were merged and are not removed yet among them, in no order."""
    inside = folder_of(folder, partition)
    matches = (_FILE.fullmatch(name) for name in _names(inside))
    return [Part(int(m[1]), int(m[2] or m[1]), inside / m[0]) for m in matches if m]


def _order(part: Part) -> tuple[int, int]:
    """A file before those that it has all rows of."""
    return part.first, -part.last


def _live(found: Iterable[Part]) -> list[Part]:
    live: list[Part] = []
    for part in sorted(found, key=_order):
        if not live or part.first > live[-1].last:
            live.append(part)
    return live


def _gap(found: Sequence[Part]) -> int | None:
    """The first number that is missing."""
    due = 0
    for part in found:
        if part.first != due:
            return due
        due = part.last + 1
    return None


def _whole(folder: Path, partition: int) -> list[Part]:
    found = parts(folder, partition)
    if (missing := _gap(found)) is not None:
        raise HistoryError(
            f"{_path(folder, partition, missing)}: missing, though later files exist; restore it from a backup"
        )
    return found


def _write_temporary(path: Path, tables: Iterable[pa.Table]) -> Path:
    """Tables, each a row group or more, in a new file beside `path`, on the disk when this returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            out = None
            for table in tables:
                out = out or pq.ParquetWriter(
                    file, table.schema, compression="zstd", write_page_checksum=True
                )
                out.write_table(table)
            if out:
                out.close()
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return Path(name)


def _replace(folder: Path, rows: list[dict[str, Any]], name: str, schema: pa.Schema) -> None:
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no file name: letters, digits, dot, dash and underscore only")
    _put(folder / f"{name}.parquet", [pa.Table.from_pylist(rows, schema)])


def _put(path: Path, tables: Iterable[pa.Table]) -> None:
    try:
        temporary = _write_temporary(path, tables)
        try:
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(path.parent)
    except OSError as error:
        raise _unwritable(path, error) from error


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder durable, and once a process the folder's own name."""
    for each in (folder,) if folder in _NAMED else (folder, folder.parent):
        handle = os.open(each, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    _NAMED.add(folder)


def _unwritable(path: Path, error: OSError) -> Unwritable:
    why = error.strerror or str(error)
    return Unwritable(f"{path}: cannot be written: {why}; check the space and the permissions there")


def _damaged(path: Path, error: object) -> HistoryError:
    return HistoryError(f"{path}: cannot be read: {error}; restore it from a backup"[:1000])


# --- rows ---


def _check_version(path: Path, metadata: dict[bytes, bytes]) -> None:
    version = metadata.get(_VERSION_KEY)
    if version is None:
        raise HistoryError(f"{path}: is no file of a factstream history; move it away")
    if version not in _VERSIONS:
        raise HistoryError(
            f"{path}: has version {version.decode(errors='replace')}, and this factstream reads up to version "
            f"{_VERSIONS[-1].decode()}; upgrade factstream"
        )


def _metadata(path: Path) -> pq.FileMetaData:
    try:
        return pq.read_metadata(path)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _damaged(path, error) from error


def _read_part(part: Part) -> Iterator[list[Decision]]:
    """The rows of each number. What is damaged is refused before the first of them."""
    table = read_table(part.path)
    ends = list(accumulate(_counts(part, table.schema.metadata, table.num_rows), initial=0))
    return (_rows(part.path, table.slice(a, b - a)) for a, b in pairwise(ends))


def _counts(part: Part, metadata: dict[bytes, bytes], total: int) -> list[int]:
    """How many rows each number of a file has. Raises `HistoryError`."""
    if part.first == part.last:
        return [total]
    try:
        counts = json.loads(metadata.get(_ROWS_KEY, b"[]"))
        if len(counts) == part.last - part.first + 1 and sum(counts) == total and min(counts) >= 0:
            return list(counts)
    except (ValueError, TypeError) as error:
        raise _damaged(part.path, error) from error
    raise _damaged(
        part.path, f"its name says numbers {part.first} to {part.last}, and its rows are not theirs"
    )


def _rows(path: Path, table: pa.Table) -> list[Decision]:
    try:
        return decisions_from_table(table, _ERASED_KEY in (table.schema.metadata or {}))
    except (pa.ArrowException, ValueError, OverflowError, MemoryError) as error:
        raise _damaged(path, error) from error


def read_table(path: Path) -> pa.Table:
    """A file of the history as it is on the disk, checked. Raises `HistoryError`."""
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            _check_version(path, file.schema_arrow.metadata or {})
            if not file.schema_arrow.equals(HISTORY):
                raise HistoryError(f"{path}: has other columns than a history; restore it from a backup")
            table = file.read()
        table.validate(full=True)
        return table
    except (pa.ArrowException, OSError, ValueError, OverflowError, MemoryError) as error:
        raise _damaged(path, error) from error
