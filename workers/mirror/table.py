"""Delta table of the history: its columns, and how a version of a partition gets into it once.

Each commit carries the last version of every partition that it has, as a transaction of Delta (`txn`): who commits the same once more, after a kill
or beside another mirror, is refused by Delta itself. An erasure rewrites the partition, and then removes the files that held the text.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, Transaction, WriterProperties, write_deltalake

from pipeline.history.log import MAX_ROWS
from pipeline.memory.codec import decisions_to_table
from pipeline.memory.events import Decision
from schemas.fields import WORDS
from schemas.history import HISTORY

PARTITION, POSITION = "history_partition", "history_position"
_WORDS = {field.name for field in WORDS}
COLUMNS = pa.schema(
    [
        pa.field(PARTITION, pa.int32(), nullable=False),
        pa.field(POSITION, pa.int64(), nullable=False),  # the order in a partition; merges do not change it
        *(field for field in HISTORY if field.name not in _WORDS),
    ]
)
"""The history without the numbers of its words, which only the memory reads."""
STATISTICS = (POSITION, "namespace", "outcome", "published_at", "decided_at")
"""Columns whose bounds are in the log of the table. Those of a text would be a piece of it that no erasure reaches."""
_WRITER = WriterProperties(compression="ZSTD")

Versions = Iterator[tuple[int, list[Decision]]]
"""Versions of a partition, as `pipeline.history.log.read` gives them."""


def address(to: str) -> str:
    """The table's address in the words of delta-rs: delta:// before a path or another address is taken away."""
    to = to.removeprefix("delta://")
    if "://" in to:
        return to
    if not to:
        raise ValueError(
            "--to: a path or an address is missing, such as delta:///srv/mirror or s3://bucket/mirror"
        )
    return os.path.abspath(to)


def opened(uri: str) -> DeltaTable:
    """The table, made if there is none. Raises DeltaError, OSError."""
    if "://" not in uri:
        Path(uri).mkdir(parents=True, exist_ok=True)
    if not DeltaTable.is_deltatable(uri):
        DeltaTable.create(
            uri,
            COLUMNS,
            mode="ignore",
            partition_by=[PARTITION],
            name="factstream history",
            configuration={"delta.dataSkippingStatsColumns": ",".join(STATISTICS)},
        )
    return DeltaTable(uri)


def reached(table: DeltaTable, partition: int) -> int:
    """The last version of the partition that the table has; -1 for none."""
    version = table.transaction_version(_app_id(partition))
    return -1 if version is None else version


def rows(partition: int, version: int, decisions: Sequence[Decision]) -> pa.Table:
    """The rows of a version."""
    count = len(decisions)
    table = decisions_to_table(decisions)
    places = {PARTITION: [partition] * count, POSITION: range(version * MAX_ROWS, version * MAX_ROWS + count)}
    columns = [places[name] if name in places else table[name] for name in COLUMNS.names]
    return pa.table(columns, schema=COLUMNS)


def append(table: DeltaTable, new: Sequence[pa.Table], last: Mapping[int, int]) -> None:
    """Adds rows in one commit. `last`: of each partition among them, the last version. Raises DeltaError, OSError."""
    write_deltalake(
        table,
        pa.concat_tables(new),
        mode="append",
        schema_mode="merge",  # a newer factstream may have more columns
        writer_properties=_WRITER,
        commit_properties=_commit(last),
    )


def rewrite(table: DeltaTable, partition: int, versions: Versions, last: int) -> None:
    """Replaces the rows of a partition in one commit. Raises DeltaError, OSError, HistoryError."""
    batches = (
        batch for version, decisions in versions for batch in rows(partition, version, decisions).to_batches()
    )
    write_deltalake(
        table,
        pa.RecordBatchReader.from_batches(COLUMNS, batches),
        mode="overwrite",
        predicate=f"{PARTITION} = {partition}",
        schema_mode="merge",
        writer_properties=_WRITER,
        commit_properties=_commit({partition: last}),
    )


def vacuum(table: DeltaTable) -> int:
    """Removes every file that is not part of the table, whatever its age, and returns how many. Raises DeltaError, OSError.

    Those are the files that a rewrite replaced, and what a killed mirror had not committed.
    """
    table.update_incremental()
    if not table.vacuum(0, dry_run=True, enforce_retention_duration=False, full=True):
        return 0  # a vacuum is a commit, too
    return len(table.vacuum(0, dry_run=False, enforce_retention_duration=False, full=True))


def _commit(last: Mapping[int, int]) -> CommitProperties:
    transactions = [Transaction(_app_id(partition), version) for partition, version in last.items()]
    return CommitProperties(app_transactions=transactions)


def _app_id(partition: int) -> str:
    return f"factstream/{partition}"
