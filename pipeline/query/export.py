"""Export of memories, those that speak and the superseded ones, as JSON Lines or Parquet.

Within a namespace the order is that in which the memories came to be what they are. So each comes before the one that replaced
it, and whoever publishes them again in this order gets the same memory. The same history gives the same file.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.history.errors import HistoryError
from pipeline.query.filter import Filter
from pipeline.query.run import QueryError, stream
from pipeline.store.opening import store_at
from schemas.files.exported import EXPORTED, VERSION

ROWS = 2_000
"""Memories of a batch: an export holds so many, beside what a query over one partition needs."""

# What happened to a memory is counted from when it was learned last. `since`: what it is now, it is since then.
_MEMORIES = """
WITH begun AS (
    SELECT namespace, memory_id, max(history_position) AS since,
        max(history_position) FILTER (WHERE outcome <> 'restored') AS learned,
        arg_max(loss_delta, history_position) FILTER (WHERE outcome <> 'restored') AS loss_delta,
        arg_max(encoder_id, history_position) FILTER (WHERE outcome <> 'restored') AS encoder_id
    FROM history WHERE outcome IN ('learned', 'superseded', 'restored') GROUP BY ALL
), life AS (
    SELECT namespace, memory_id, count(*) FILTER (WHERE outcome = 'reinforced') AS reinforced,
        max(decided_at) FILTER (WHERE outcome = 'reinforced') AS reinforced_at,
        count(*) FILTER (WHERE outcome = 'used') AS uses, max(decided_at) FILTER (WHERE outcome = 'used') AS last_used_at
    FROM (SELECT namespace, memory_id, outcome, decided_at, history_position FROM history
        WHERE outcome IN ('reinforced', 'used'))
    JOIN begun USING (namespace, memory_id) WHERE history_position > learned GROUP BY ALL
), every_one AS (
    SELECT memory_id, namespace, 'remembered' AS state, text, category, source, fact_id, key, cardinality, metadata,
        observed_at, valid_until, learned_at, NULL AS superseded_by, NULL AS rule, NULL AS superseded_at
    FROM memories
    UNION ALL
    SELECT memory_id, namespace, 'superseded', text, category, source, fact_id, key, cardinality, metadata,
        observed_at, valid_until, learned_at, superseded_by, rule, superseded_at
    FROM superseded WHERE text IS NOT NULL
)
"""


def export(
    data: Path, filter: Filter, out: BinaryIO, as_parquet: bool, progress: Callable[[int], object]
) -> dict[str, int]:
    """Writes the chosen memories to `out`, and returns how many of each state. `progress` gets their number so far.

    Raises `QueryError`, OSError.
    """
    writer = (
        pq.ParquetWriter(out, EXPORTED, compression="zstd", write_page_checksum=True) if as_parquet else None
    )
    counts = {"remembered": 0, "superseded": 0}
    try:
        for table in exported(data, filter):
            if writer:
                writer.write_table(table)
            else:
                out.write(_lines(table))
            for state in table.column("state").to_pylist():
                counts[state] += 1
            progress(sum(counts.values()))
    finally:
        if writer:  # also after an error: later the file is closed, and the writer complains
            writer.close()
    return counts


def lines(data: Path, filter: Filter) -> Iterator[bytes]:
    """The chosen memories as JSON Lines, in pieces of many lines, for a file that is sent. Raises `QueryError`."""
    return map(_lines, exported(data, filter))


def exported(data: Path, filter: Filter) -> Iterator[pa.Table]:
    """The chosen memories, in tables of schemas.files.exported.EXPORTED. Raises `QueryError`."""
    chosen = filter.condition()
    counts = {"reinforced": "coalesce(reinforced, 0)", "uses": "coalesce(uses, 0)"}
    sql = (
        f"{_MEMORIES} SELECT {', '.join(f'{counts.get(name, name)} AS {name}' for name in EXPORTED.names)} "
        f"FROM (SELECT * FROM every_one WHERE {chosen.sql}) JOIN begun USING (namespace, memory_id) "
        "LEFT JOIN life USING (namespace, memory_id) ORDER BY namespace, since"
    )
    for partition in _partitions(data):
        for batch in stream(data, sql, chosen.parameters, partition, ROWS):
            yield pa.Table.from_batches([batch]).cast(EXPORTED)


def _lines(table: pa.Table) -> bytes:
    return b"".join(map(_line, table.to_pylist()))


def _partitions(data: Path) -> list[int]:
    try:
        return store_at(data).partitions()
    except HistoryError as error:
        raise QueryError(str(error)) from error


def _line(row: dict[str, object]) -> bytes:
    """A row as a line of JSON, without its nulls."""
    known = {name: value for name, value in row.items() if value is not None}
    if isinstance(metadata := known.get("metadata"), str):
        known["metadata"] = orjson.Fragment(metadata)
    return orjson.dumps({"version": VERSION} | known, option=orjson.OPT_UTC_Z | orjson.OPT_APPEND_NEWLINE)
