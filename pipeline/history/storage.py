"""Storage of the history's Parquet files: atomic writes, locks, and checks when they are read.

Pages carry checksums, and the schema's metadata says which format a file has, how many rows each version of a merged file
has, and whether an erasure has blanked rows of it.
"""

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import files
from pipeline.history.errors import HistoryError, Unwritable, damaged, disk_errors
from pipeline.history.layout import DataFile
from schemas.fields import with_columns
from schemas.history import BEFORE_KEYS, HISTORY

LOCK_WAIT_S = 5.0
"""Seconds to wait for a folder's lock."""

FORMAT_KEY = b"factstream.history"
FORMATS = (b"1", b"2", b"3")  # versions that can be read, the newest last: see schemas/history.py
_TAIL = 8  # bytes at a Parquet file's end: the length of the footer, and a mark
_NEWEST = (
    FORMAT_KEY + b"\x18\x01" + FORMATS[-1]
)  # as Thrift's compact protocol has the key and its value in the footer
ERASED_KEY = b"factstream.erased"
ROWS_KEY = b"factstream.rows"  # of a merged file: the number of rows of each version, as JSON

_READ_ERRORS = (pa.ArrowException, OSError, ValueError, OverflowError, MemoryError)


def write(path: Path, tables: Iterable[pa.Table], exclusive: bool = False) -> None:
    """Writes tables into one file, each as one row group or more, durably and atomically.

    With `exclusive` raises FileExistsError where the file exists; otherwise replaces it. Raises OSError.
    """
    with files.atomic_file(path, exclusive=exclusive) as out:
        write_tables(out, tables)


def write_tables(out: BinaryIO, tables: Iterable[pa.Table]) -> None:
    """Writes tables as one Parquet file."""
    writer = None
    for table in tables:
        writer = writer or pq.ParquetWriter(out, table.schema, compression="zstd", write_page_checksum=True)
        writer.write_table(table)
    if writer:
        writer.close()


@contextmanager
def locked(folder: Path, wait_s: float | None = None) -> Iterator[None]:
    """A block in which only this process changes the folder's files; adding a file needs no lock.

    Raises `Unwritable` when another process holds the lock for longer than `wait_s` seconds (by default LOCK_WAIT_S), and
    for any OSError of the block.
    """
    path = folder / ".lock"
    with disk_errors(path):
        try:
            with files.locked(path, LOCK_WAIT_S if wait_s is None else wait_s):
                yield
        except files.Locked as error:
            raise Unwritable(f"{error}; it is tried again") from None


def read_table(path: Path) -> pa.Table:
    """A file of the history, with every page checked, and with the columns of the newest format. Raises `HistoryError`."""
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            metadata = file.schema_arrow.metadata or {}
            _check_format(path, metadata)
            columns = HISTORY if metadata[FORMAT_KEY] == FORMATS[-1] else BEFORE_KEYS
            if not file.schema_arrow.equals(columns):
                raise HistoryError(f"{path}: has other columns than a history; restore it from a backup")
            table = file.read()
        table.validate(full=True)
        return with_columns(table, HISTORY).replace_schema_metadata(metadata)
    except _READ_ERRORS as error:
        raise damaged(path, error) from error


def read_metadata(path: Path) -> pq.FileMetaData:
    """A file's footer. Raises `HistoryError`."""
    try:
        return pq.read_metadata(path)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise damaged(path, error) from error


def read_schema(path: Path) -> pa.Schema:
    """A file's columns and metadata. Raises `HistoryError`."""
    try:
        return pq.read_schema(path)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise damaged(path, error) from error


def is_newest(path: Path) -> bool:
    """Whether a history's file surely has the newest format, told from the bytes of its footer alone.

    A query asks of hundreds of files, and parsing each footer would take longer than the query.
    """
    try:
        with path.open("rb") as file:
            file.seek(-_TAIL, os.SEEK_END)
            end = file.tell()
            length = int.from_bytes(file.read(_TAIL)[:4], "little")
            file.seek(max(0, end - length))
            return _NEWEST in file.read(length)
    except OSError:  # removed meanwhile, or damaged: the query itself will tell
        return False


def check_format(path: Path) -> None:
    """Raises `HistoryError` unless the file is a history in a format that this factstream reads."""
    _check_format(path, read_metadata(path).metadata or {})


def row_counts(file: DataFile, metadata: dict[bytes, bytes], rows: int) -> list[int]:
    """The number of rows of each version of a file that has `rows` in all. Raises `HistoryError`."""
    if not file.is_merged:
        return [rows]
    try:
        counts = json.loads(metadata.get(ROWS_KEY, b"[]"))
        if len(counts) == file.last - file.first + 1 and sum(counts) == rows and min(counts) >= 0:
            return list(counts)
    except (ValueError, TypeError) as error:
        raise damaged(file.path, error) from error
    raise damaged(
        file.path, f"its name says versions {file.first} to {file.last}, and its rows are not theirs"
    )


def _check_format(path: Path, metadata: dict[bytes, bytes]) -> None:
    found = metadata.get(FORMAT_KEY)
    if found is None:
        raise HistoryError(f"{path}: is not a file of a factstream history; move it away")
    if found not in FORMATS:
        raise HistoryError(
            f"{path}: has format version {found.decode(errors='replace')}, and this factstream reads up to version "
            f"{FORMATS[-1].decode()}; upgrade factstream"
        )
