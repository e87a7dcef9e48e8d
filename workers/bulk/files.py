"""Files of encodings, read in the order of their records, by any number of writers.

`factstream encode` writes a file for each stretch of records. An engine such as Ray writes blocks in any order and of any size, and one
that tried again may leave some records twice. So the rows of files that overlap are sorted, and at a gap, or at a record that is in two
files, the reading ends before anything that follows: the writer would never decide what comes later with a lower offset.
"""

import tempfile
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.memory.events import Event
from pipeline.query.sandbox import file_pattern
from schemas.common import BadMessage
from schemas.encoding import FACT_ENCODINGS
from schemas.files.encoded import ENCODED, PARTITION, REFUSED, Job
from workers.bulk.job import ENCODINGS
from workers.write.validate import events_of

ROWS = 2_048
"""Rows of a batch."""
DUCKDB: dict[str, str | bool | int | float | list[str]] = {
    "memory_limit": "1GB",
    "threads": "2",
    "autoinstall_known_extensions": False,
}
"""What sorts files that overlap; what does not fit waits on the disk."""


class Refused(NamedTuple):
    """A record that could not be encoded."""

    value: bytes | None
    reason: str
    error: str


class Record(NamedTuple):
    """A record of the job: its events, or why it has none."""

    offset: int
    content: list[Event] | Refused


class _Row(NamedTuple):
    offset: int
    file: str
    content: Event | Refused


def records(out: Path, job: Job) -> Iterator[Record]:
    """All records of a job, in order. Raises ValueError where one is missing, there twice or damaged; OSError."""
    expected = 0
    rows = (row for group in _groups(out) for row in _rows(group, job))
    for offset, found in groupby(rows, key=lambda row: row.offset):
        own = list(found)
        if offset != expected:
            break
        if len(files := {row.file for row in own}) > 1:
            raise ValueError(f"row {offset + 1} is in two files: {' and '.join(sorted(files))}; remove one")
        refused = own[0].content
        events = [row.content for row in own if not isinstance(row.content, Refused)]
        yield Record(offset, refused if isinstance(refused, Refused) else events)
        expected += 1
    if expected < job.rows:
        raise ValueError(
            f"{out}: row {expected + 1} of {job.rows} is not encoded yet; `factstream encode` goes on"
        )


def _groups(out: Path) -> list[list[Path]]:
    """The files, those together whose records overlap, by the first record of each group."""
    spans = sorted((*_span(path), path) for path in (out / ENCODINGS).glob("*.parquet"))
    groups: list[list[Path]] = []
    end = -1
    for first, last, path in spans:
        if groups and first <= end:
            groups[-1].append(path)
        else:
            groups.append([path])
        end = max(end, last)
    return groups


def _span(path: Path) -> tuple[int, int]:
    """The lowest and the highest offset of a file."""
    try:
        span = pc.min_max(pq.ParquetFile(path).read(["offset"])["offset"]).as_py()
        return int(span["min"]), int(span["max"])
    except (pa.ArrowException, KeyError, TypeError) as error:
        raise ValueError(
            f"{path}: is not a file of encodings: {error}; remove it, and encode again"
        ) from error


def _rows(files: Sequence[Path], job: Job) -> Iterator[_Row]:
    """The rows of files by offset; those of one record stay in their order."""
    sql = (
        "FROM read_parquet($files, filename = true, file_row_number = true) "
        'ORDER BY "offset", filename, file_row_number'
    )
    try:
        with (
            tempfile.TemporaryDirectory() as spill,
            duckdb.connect(config=DUCKDB | {"temp_directory": spill}) as db,
        ):
            for batch in db.sql(
                sql, params={"files": [file_pattern(file) for file in files]}
            ).to_arrow_reader(ROWS):
                yield from _read(batch, job)
    except (duckdb.Error, pa.ArrowException, BadMessage, KeyError, TypeError, OverflowError) as error:
        raise ValueError(f"{files[0]}: cannot be read: {error}; remove it, and encode again") from error


def _read(batch: pa.RecordBatch, job: Job) -> Iterator[_Row]:
    table = pa.Table.from_batches([batch])
    names = table["filename"].to_pylist()
    table = table.select(ENCODED.names).cast(pa.schema(field.with_nullable(True) for field in ENCODED))
    for column, value in (("topic_id", job.job_id), ("partition", PARTITION), ("encoder_id", job.encoder_id)):
        if not pc.all(pc.equal(table[column], value)).as_py():
            raise ValueError(f"{names[0]}: belongs to another job: {column} is not {value}; remove it")
    for field in ENCODED:
        if not field.nullable and table[field.name].null_count:
            raise ValueError(
                f"{names[0]}: cannot be read: a null in {field.name}; remove it, and encode again"
            )
    encoded = table.filter(pc.not_equal(table["kind"], REFUSED)).select(FACT_ENCODINGS.names).combine_chunks()
    events = (event for one in encoded.to_batches() for event in events_of(one))
    refusals = table.select(["offset", "kind", "value", "reason", "error"]).to_pylist()
    for row, name in zip(refusals, names, strict=True):
        yield _Row(row["offset"], Path(name).name, _refused(row) if row["kind"] == REFUSED else next(events))


def _refused(row: dict[str, Any]) -> Refused:
    return Refused(row["value"], row["reason"] or "unknown", row["error"] or "")
