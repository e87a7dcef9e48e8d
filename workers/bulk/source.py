"""Source of a bulk job: facts in files of Parquet or JSON Lines, read as numbered records.

The order of the files' names is the order of the facts. A row of Parquet becomes the same JSON that a producer would send; a
column `value`, as a dump of the topic has it, is such a message already. Nothing is checked here: the encoder refuses what is not a fact.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.files import lines
from schemas.common import MAX_MESSAGE_BYTES, BadMessage
from schemas.fact import Fact, decode_fact
from schemas.files.encoded import FACT_RECORDS, PARTITION, Job
from schemas.files.exported import VERSION_KEY

SUFFIXES = (".parquet", ".jsonl")
VALUE = "value"
"""The column of messages."""
_ROWS = 1_000  # read at a time


@dataclass(frozen=True)
class Source:
    """The files of a job's input, in order."""

    files: Sequence[Path]
    sha256: str
    """Hash of the bytes of all files."""
    rows: int
    left_out: tuple[str, ...] = ()
    """Columns of Parquet, and fields of the first lines of JSON, that a fact does not have."""


def scan(path: Path) -> Source:
    """Reads a file, or all files of a folder that end with one of SUFFIXES, once. Raises ValueError and OSError."""
    files = [path] if path.is_file() else sorted(p for p in path.iterdir() if p.suffix in SUFFIXES)
    if not files or any(file.suffix not in SUFFIXES for file in files):
        raise ValueError(
            f"{path}: no Parquet or JSON Lines here; their names end with {' or '.join(SUFFIXES)}"
        )
    sha, rows, left_out = hashlib.sha256(), 0, dict[str, None]()
    for file in files:
        with file.open("rb") as opened:
            sha.update(hashlib.file_digest(opened, "sha256").digest())
        if file.suffix == ".parquet":
            count, unknown = _shape(file)
            left_out |= dict.fromkeys(unknown)
        else:
            count = sum(1 for _ in _lines(file))
            left_out |= dict.fromkeys(_unknown(islice(_lines(file), _ROWS)))
        rows += count
    return Source(files, sha.hexdigest(), rows, tuple(left_out))


def files_of_records(
    source: Source, job: Job, wanted: Callable[[int], bool]
) -> Iterator[tuple[int, pa.Table]]:
    """The records of each wanted file of the job, in the columns of FACT_RECORDS, with the file's number. Raises OSError, ValueError."""
    size, at = job.rows_a_file, 0
    values: list[bytes | None] = []
    for batch in (batch for file in source.files for batch in _batches(file)):
        while batch.num_rows:
            number, within = divmod(at, size)
            taken = batch.slice(0, size - within)
            if wanted(number):
                values += _values(taken)
            batch, at = batch.slice(taken.num_rows), at + taken.num_rows
            if values and (at % size == 0 or at == job.rows):
                yield number, _records(job, number * size, values)
                values = []
    if at != job.rows:
        raise ValueError(f"the input had {job.rows} rows when the job began, and has {at} now")


def _records(job: Job, begin: int, values: Sequence[bytes | None]) -> pa.Table:
    count = len(values)
    columns = {
        "topic_id": [job.job_id] * count,
        "partition": [PARTITION] * count,
        "offset": range(begin, begin + count),
        "published_at": [job.published_at] * count,
        "value": values,
    }
    return pa.table(columns, schema=FACT_RECORDS)


def _shape(file: Path) -> tuple[int, list[str]]:
    """The number of rows of a Parquet file, and the columns that a fact does not have. Raises ValueError."""
    try:
        with pq.ParquetFile(file) as opened:
            columns, metadata = opened.schema_arrow.names, opened.schema_arrow.metadata or {}
            rows = opened.metadata.num_rows
    except pa.ArrowException as error:
        raise ValueError(f"{file}: cannot be read as Parquet: {error}") from error
    if VERSION_KEY in metadata:
        raise ValueError(f"{file}: is an export of memories, for `factstream memories import`")
    if VALUE in columns:
        return rows, []
    if "text" not in columns:
        raise ValueError(f"{file}: has no column `text`, and no column `value` with messages")
    return rows, [name for name in columns if name not in Fact.model_fields]


def _unknown(some: Iterable[bytes]) -> Iterator[str]:
    """The fields of messages that no message has."""
    for line in some:
        with suppress(BadMessage):
            yield from decode_fact(None, line).unknown


def _batches(file: Path) -> Iterator[pa.RecordBatch]:
    if file.suffix == ".parquet":
        try:
            with pq.ParquetFile(file) as opened:
                yield from opened.iter_batches(_ROWS)
        except pa.ArrowException as error:
            raise ValueError(f"{file}: cannot be read as Parquet: {error}") from error
    else:
        rest = _lines(file)
        while some := list(islice(rest, _ROWS)):
            yield pa.record_batch({VALUE: pa.array(some, pa.binary())})


def _lines(file: Path) -> Iterator[bytes]:
    return (line.rstrip(b"\r\n") for line in lines(file, MAX_MESSAGE_BYTES + 2) if line.strip())


def _values(batch: pa.RecordBatch) -> list[bytes | None]:
    """The rows as messages."""
    if VALUE in batch.schema.names:
        return [one.encode() if isinstance(one, str) else one for one in batch.column(VALUE).to_pylist()]
    return [_message(row) for row in batch.to_pylist()]


def _message(row: dict[str, Any]) -> bytes:
    """A row as a message, without its nulls."""
    known = {name: value for name, value in row.items() if value is not None}
    if isinstance(metadata := known.get("metadata"), str):
        with suppress(orjson.JSONDecodeError):  # otherwise it is refused for what it is
            known["metadata"] = orjson.loads(metadata)
    return orjson.dumps(known, default=str, option=orjson.OPT_NAIVE_UTC | orjson.OPT_UTC_Z)
