"""The history on disk: Parquet files that are written once, whole or not at all, and changed by an erasure only.

Knows files: their names, their order, that only one writer gets a number, that a damaged one is refused. Every function
takes the data folder. Knows nothing of what a decision means, and keeps nothing in memory.
"""

import fcntl
import os
import re
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.decision import Cause, Decision
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
_PARTITION = re.compile(r"partition=(0|[1-9][0-9]*)")
_FILE = re.compile(r"([0-9]{10})\.parquet")
_TEMPORARY = re.compile(r"\.([0-9]{10})\..*\.tmp")
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")
_CAUSE = [field.name for field in fields(Cause)]
_MADE = ("memory_id", "text", "observed_at", "importance", "loss_delta", "encoder_id")
_PLAIN = [f.name for f in fields(Decision) if f.name not in ("cause", "priors", "surprisals", "vectors")]


class HistoryError(Exception):
    """The history cannot be read or written; the text names the file and what to do."""


class Unwritable(HistoryError):
    """The disk refuses, or another process is at it: it may go better later, and nothing was changed."""


class SequenceTaken(HistoryError):
    """Another writer wrote this number first: fold again and decide anew."""


def partitions(folder: Path) -> list[int]:
    """The partitions that have a history, ascending."""
    matches = (_PARTITION.fullmatch(name) for name in _names(folder / HISTORY_FOLDER))
    return sorted(int(match[1]) for match in matches if match)


def last_sequence(folder: Path, partition: int) -> int:
    """The number of the partition's last file; -1 if it has none."""
    return max(_sequences(folder, partition), default=-1)


def append(folder: Path, partition: int, sequence: int, decisions: Sequence[Decision]) -> Path:
    """Writes file number `sequence`, durably, and returns its path.

    It appears whole or not at all, and only if nobody wrote that number before: raises `SequenceTaken` then, and
    `HistoryError` if the disk refuses or the file before it is missing.
    """
    if len(decisions) > MAX_ROWS:
        raise ValueError(f"{len(decisions)} decisions; one file takes at most {MAX_ROWS}")
    path = _path(folder, partition, sequence)
    if sequence > 0 and not _path(folder, partition, sequence - 1).exists():
        raise HistoryError(f"{path}: the file before it is missing, and a history has no gaps; fold it again")
    table = _to_table(decisions)
    try:
        temporary = _write_temporary(path, table)
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
        _sync_folder(path.parent)
        # Up to this number nobody else can win any more, so what others left half written is of no use to them.
        for name in _names(path.parent):
            if (match := _TEMPORARY.fullmatch(name)) and int(match[1]) <= sequence:
                (path.parent / name).unlink(missing_ok=True)
    except OSError as error:
        raise _unwritable(path, error) from error
    return path


def read(folder: Path, partition: int, after: int = -1) -> Iterator[tuple[int, list[Decision]]]:
    """The files behind number `after`, in order, as (sequence, rows).

    Raises `HistoryError` for a gap, and for a file that is damaged or of a newer version.
    """
    found = _sequences(folder, partition)
    for sequence in range(max(found, default=-1) + 1):
        # A listing may miss a file that appears while it is made: hence a second look.
        if sequence not in found and not _path(folder, partition, sequence).exists():
            raise HistoryError(
                f"{_path(folder, partition, sequence)}: missing, though later files exist; restore it from a backup"
            )
    for sequence in range(after + 1, max(found, default=-1) + 1):
        yield sequence, _read_file(_path(folder, partition, sequence))


def check_version(path: Path) -> None:
    """Raises `HistoryError` unless the file is a history of a version that this factstream reads."""
    try:
        schema = pq.read_schema(path)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _damaged(path, error) from error
    _check_version(path, schema)


def append_generations(folder: Path, rows: list[dict[str, Any]], name: str) -> None:
    """Writes `generations/<name>.parquet`, whole; the same name again replaces it. Columns: schemas.history."""
    _replace(folder / GENERATIONS_FOLDER, rows, name, GENERATIONS)


def append_dead_letters(folder: Path, rows: list[dict[str, Any]], name: str) -> None:
    """Writes `dead_letters/<name>.parquet`, whole; the same name again replaces it. Columns: schemas.dead_letter."""
    _replace(folder / DEAD_LETTERS_FOLDER, rows, name, DEAD_LETTERS)


def files(folder: Path, partition: int) -> list[Path]:
    """The partition's files, in order."""
    return [_path(folder, partition, n) for n in sorted(_sequences(folder, partition))]


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
    _put(path, table.replace_schema_metadata(metadata))


# --- files ---


def _path(folder: Path, partition: int, sequence: int) -> Path:
    return folder / HISTORY_FOLDER / f"partition={partition}" / f"{sequence:010d}.parquet"


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise HistoryError(f"{folder}: cannot be listed: {error.strerror}; check its permissions") from error


def _sequences(folder: Path, partition: int) -> set[int]:
    names = _names(_path(folder, partition, 0).parent)
    return {int(match[1]) for name in names if (match := _FILE.fullmatch(name))}


def _write_temporary(path: Path, table: pa.Table) -> Path:
    """`table` in a new file beside `path`, on the disk when this returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(sink.getvalue())
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return Path(name)


def _replace(folder: Path, rows: list[dict[str, Any]], name: str, schema: pa.Schema) -> None:
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no file name: letters, digits, dot, dash and underscore only")
    _put(folder / f"{name}.parquet", pa.Table.from_pylist(rows, schema))


def _put(path: Path, table: pa.Table) -> None:
    try:
        temporary = _write_temporary(path, table)
        try:
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        _sync_folder(path.parent)
    except OSError as error:
        raise _unwritable(path, error) from error


def _sync_folder(folder: Path) -> None:
    """Makes the names in a folder durable, and the folder's own name."""
    for each in (folder, folder.parent):
        handle = os.open(each, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _unwritable(path: Path, error: OSError) -> Unwritable:
    why = error.strerror or str(error)
    return Unwritable(f"{path}: cannot be written: {why}; check the space and the permissions there")


def _damaged(path: Path, error: object) -> HistoryError:
    return HistoryError(f"{path}: cannot be read: {error}; restore it from a backup"[:1000])


# --- rows ---


def _to_table(decisions: Sequence[Decision]) -> pa.Table:
    columns: dict[str, list[Any]] = {name: [getattr(d, name) for d in decisions] for name in _PLAIN}
    columns |= {name: [getattr(d.cause, name) for d in decisions] for name in _CAUSE}
    columns |= {name: [getattr(d, name) for d in decisions] for name in ("priors", "surprisals")}
    columns["vectors"] = [None if d.vectors is None else d.vectors.tobytes() for d in decisions]
    return pa.table(columns, schema=HISTORY)


def _check_version(path: Path, schema: pa.Schema) -> None:
    version = (schema.metadata or {}).get(_VERSION_KEY)
    if version is None:
        raise HistoryError(f"{path}: is no file of a factstream history; move it away")
    if version not in _VERSIONS:
        raise HistoryError(
            f"{path}: has version {version.decode(errors='replace')}, and this factstream reads up to version "
            f"{_VERSIONS[-1].decode()}; upgrade factstream"
        )


def _read_file(path: Path) -> list[Decision]:
    try:
        table = read_table(path)
        return _from_table(table)
    except (pa.ArrowException, ValueError, OverflowError, MemoryError) as error:
        raise _damaged(path, error) from error


def read_table(path: Path) -> pa.Table:
    """A file of the history as it is on the disk, checked. Raises `HistoryError`."""
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            _check_version(path, file.schema_arrow)
            if not file.schema_arrow.equals(HISTORY):
                raise HistoryError(f"{path}: has other columns than a history; restore it from a backup")
            table = file.read()
        table.validate(full=True)
        return table
    except (pa.ArrowException, OSError, ValueError, OverflowError, MemoryError) as error:
        raise _damaged(path, error) from error


def _from_table(table: pa.Table) -> list[Decision]:
    for field in HISTORY:
        if not field.nullable and table.column(field.name).null_count:
            raise ValueError(f"null in {field.name}")
    erased = _ERASED_KEY in (table.schema.metadata or {})
    columns = {name: table.column(name).to_pylist() for name in (*_PLAIN, *_CAUSE, "vectors")}
    lists = {name: table.column(name) for name in ("priors", "surprisals")}
    rows = []
    for i in range(table.num_rows):
        arrays: dict[str, Any] = {
            name: np.array(column[i].values, np.float32) if column[i].is_valid else None
            for name, column in lists.items()
        }
        if (blob := columns["vectors"][i]) is not None:
            if arrays["priors"] is None:
                raise ValueError(f"row {i} has vectors, but no words")
            words = len(arrays["priors"])
            shape = (words, len(blob) // words if words else 0)
            arrays["vectors"] = np.frombuffer(blob, np.uint8).reshape(shape).copy()
        if columns["outcome"][i] in ("learned", "superseded"):
            needed = [columns[name][i] for name in _MADE] + list(arrays.values())
            whole = len(arrays) == 3 and all(value is not None for value in needed)
            if not whole and not (erased and columns["text"][i] is None):
                raise ValueError(f"row {i} makes a memory, and has not all of it")
        cause = Cause(**{name: columns[name][i] for name in _CAUSE})
        rows.append(Decision(cause=cause, **{name: columns[name][i] for name in _PLAIN}, **arrays))
    return rows
