"""Speed of queries over a compacted history, compared with one flat file of the same rows.

The rows are synthetic: a third of them adds memories, and one memory in nine is left at the end; the others use,
reinforce, supersede, skip and evict. Their vectors are one byte a word, since no query reads them. The same
seed gives the same rows.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.bench.harness import Progress, clock, in_turns, median_timing
from pipeline.history import checkpoint, compaction, layout, log
from pipeline.memory.codec import decisions_from_table
from pipeline.query import run as query
from schemas.history import CHECKPOINT, HISTORY

PARTITIONS = 4
REPEATS = 5
BEGIN_US = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp() * 1e6)
OUTCOMES = ("learned", "superseded", "used", "reinforced", "skipped", "evicted")
SHARES = (30, 5, 30, 7, 2, 26)
ANALYSES = {
    "outcomes": (
        "select outcome, count(*) as facts, avg(loss_delta) from history group by outcome",
        ("outcome", "loss_delta"),
    ),
    "most used": (
        "select text, uses, importance from memories order by uses desc limit 10",
        ("outcome", "namespace", "memory_id", "nearest", "text", "importance"),
    ),
}
"""The README's analyses of the history, and the columns that each reads."""


@dataclass(frozen=True, slots=True)
class Analysis:
    """Medians, in seconds: of the query, with a connection of its own, and of reading its columns from the flat file."""

    seconds: float
    flat_seconds: float
    ratio: float  # flat_seconds / seconds
    cpu_seconds: float  # the same by processor time, which says more on a busy machine
    flat_cpu_seconds: float
    cpu_ratio: float


@dataclass(frozen=True, slots=True)
class Query:
    """The measurement's result, and its limits."""

    rows: int
    memories: int
    files_written: int
    files: int  # after compaction
    compaction_seconds: float
    analyses: dict[str, Analysis]
    least_ratio: float
    most_seconds: float


def measure(folder: Path, rows: int, flush: int, seed: int, progress: Progress) -> Query:
    """Writes `rows` rows of history, `flush` per file, and times the analyses. folder: an empty one."""
    data, flat = folder / "data", folder / "flat.parquet"
    partitions = [_Partition(n) for n in range(PARTITIONS)]
    compaction_s = _write(data, flat, partitions, rows, flush, Random(seed), progress)
    [[count]] = query.run(data, "select count(*) as n from memories").to_pydict().values()
    if count != sum(len(partition.alive) for partition in partitions):
        raise ValueError(f"SQL counts {count} memories, not those that the rows leave")
    analyses = {}
    for name, (sql, columns) in ANALYSES.items():
        analyses[name] = _analysis(data, flat, sql, columns)
        progress("analyses", 1, len(ANALYSES))
    files = sum(len(layout.live_files(data, partition)) for partition in range(PARTITIONS))
    written = sum(partition.written for partition in partitions)
    return Query(rows, count, written, files, compaction_s, analyses, 0.5, 2.0)


def _write(
    data: Path,
    flat: Path,
    partitions: Sequence["_Partition"],
    rows: int,
    flush: int,
    dice: Random,
    progress: Progress,
) -> float:
    """Writes the rows to a history, with a writer's checkpoints and compactions, and to one flat file.

    Returns the seconds of compaction.
    """
    seconds = 0.0
    with pq.ParquetWriter(flat, HISTORY, compression="zstd") as out:
        waiting: list[pa.Table] = []
        for number, begin in enumerate(range(0, rows, flush)):
            partition = partitions[number % PARTITIONS]
            table = partition.rows(range(begin, min(begin + flush, rows)), dice)
            log.append_table(data, partition.number, partition.written, table)
            if partition.checkpoint_due(rows // PARTITIONS):
                partition.checkpoint(data, table)
            partition.written += 1
            waiting.append(table)
            if len(waiting) * flush >= 1_000_000 or begin + flush >= rows:
                out.write_table(pa.concat_tables(waiting), row_group_size=122_880)  # as DuckDB's own
                waiting = []
            if partition.written % (compaction.FAN // 2) == 0:
                seconds += _compact(data, partition.number, 1)
            progress("rows written", table.num_rows, rows)
    return seconds + sum(_compact(data, partition.number, rows) for partition in partitions)


def _compact(data: Path, partition: int, steps: int) -> float:
    """Takes at most so many steps of compaction; their seconds."""
    begun = clock()
    while steps and compaction.step(data, partition, time.time() + compaction.KEEP_S):
        steps -= 1
    return clock() - begun


def _analysis(data: Path, flat: Path, sql: str, columns: Sequence[str]) -> Analysis:
    flat_sql = "SELECT " + ", ".join(f"sum({_size(column)})" for column in columns) + f" FROM '{flat}'"
    ours, flats = in_turns(REPEATS, lambda _: query.run(data, sql), lambda _: _plain(flat_sql))
    seconds, flat_s = median_timing(ours), median_timing(flats)
    return Analysis(
        seconds.wall,
        flat_s.wall,
        flat_s.wall / seconds.wall,
        seconds.cpu,
        flat_s.cpu,
        flat_s.cpu / seconds.cpu,
    )


def _plain(sql: str) -> object:
    """Runs the query in DuckDB alone, with the sandbox's limits."""
    with duckdb.connect(":memory:", config={"memory_limit": "1GB", "threads": 2}) as connection:
        return connection.execute(sql).fetchall()


def _size(column: str) -> str:
    """SQL of a number that needs the column's values."""
    return f"length({column})" if pa.types.is_string(HISTORY.field(column).type) else column


class _Partition:
    """A partition while its rows are invented: its memories, and how often each was used."""

    def __init__(self, number: int) -> None:
        self.number, self.written, self.decided = number, 0, 0
        self.alive: list[int] = []  # memories, by the number of the row that learned each
        self.uses: dict[int, int] = {}
        self.reinforced: dict[int, int] = {}
        self.importance: dict[int, float] = {}
        self._kept = False

    def checkpoint_due(self, rows: int) -> bool:
        """Whether a writer would make its last checkpoint before the end now.

        It makes the next one after as many further decisions as there are memories.
        """
        return not self._kept and self.decided >= rows - len(self.alive)

    def rows(self, numbers: range, dice: Random) -> pa.Table:
        """Invents the rows of these numbers, and carries out their decisions on the partition's memories."""
        outcomes, about = dice.choices(OUTCOMES, SHARES, k=len(numbers)), list[int]()
        other: list[str | None] = []
        for i, n in enumerate(numbers):
            if not self.alive:
                outcomes[i] = "learned"
            at = dice.randrange(len(self.alive)) if self.alive else 0
            old = self.alive[at] if self.alive else n
            other.append(f"{old:032x}" if outcomes[i] == "superseded" else None)
            if outcomes[i] in ("superseded", "evicted"):
                self.alive[at] = self.alive[-1]
                self.alive.pop()
                for kept in (self.uses, self.reinforced, self.importance):
                    kept.pop(old, None)
            if outcomes[i] in ("learned", "superseded"):
                self.alive.append(n)
                self.importance[n] = n / 1e6
            elif outcomes[i] in ("used", "reinforced"):
                counts = self.uses if outcomes[i] == "used" else self.reinforced
                counts[old] = counts.get(old, 0) + 1
                self.importance[old] = n / 1e6
            about.append(n if outcomes[i] in ("learned", "superseded", "skipped") else old)
        self.decided += len(numbers)
        making = [outcome in ("learned", "superseded") for outcome in outcomes]
        facts = [outcome not in ("used", "evicted") for outcome in outcomes]
        columns = _memory_columns(about, self.number, facts) | {
            "outcome": outcomes,
            "memory_id": [
                None if o == "skipped" else f"{n:032x}" for n, o in zip(about, outcomes, strict=True)
            ],
            "nearest": other,
            "published_at": [BEGIN_US + n * 1_000 for n in numbers],
            "decided_at": [BEGIN_US + n * 1_000 for n in numbers],
            "importance": [
                n / 1e6 if o != "skipped" else None for n, o in zip(numbers, outcomes, strict=True)
            ],
            "topic": ["facts" if f else "memory-hits" for f in facts],
            "topic_id": ["bench"] * len(numbers),
            "partition": [self.number] * len(numbers),
            "offset": list(numbers),
        }
        for name, value in (("priors", [1.0] * 8), ("surprisals", [1.0] * 8), ("vectors", b"12345678")):
            columns[name] = [value if new else None for new in making]
        return pa.table(
            {f.name: pa.array(columns.get(f.name, [None] * len(numbers)), f.type) for f in HISTORY}, HISTORY
        )

    def checkpoint(self, data: Path, last: pa.Table) -> None:
        """Writes the checkpoint that a writer would write after the batch `last`."""

        def batches() -> Iterator[pa.RecordBatch]:
            for begin in range(0, len(self.alive), 4_096):
                some = self.alive[begin : begin + 4_096]
                columns = _memory_columns(some, self.number, [True] * len(some)) | {
                    "memory_id": [f"{n:032x}" for n in some],
                    "learned_at": [BEGIN_US + n * 1_000 for n in some],
                    "last_used_at": [BEGIN_US if n in self.uses else None for n in some],
                    "importance": [self.importance[n] for n in some],
                    "uses": [self.uses.get(n, 0) for n in some],
                    "reinforced": [self.reinforced.get(n, 0) for n in some],
                    "priors": [[1.0] * 8] * len(some),
                    "surprisals": [[1.0] * 8] * len(some),
                    "vectors": [b"12345678"] * len(some),
                }
                yield pa.record_batch(
                    [pa.array(columns.get(f.name, [None] * len(some)), f.type) for f in CHECKPOINT],
                    schema=CHECKPOINT,
                )

        state: dict[str, object] = {
            "mark": checkpoint.fingerprint(decisions_from_table(last, False)),
            "spaces": {},
        }
        self._kept = checkpoint.write_batches(data, self.number, self.written, state, batches())


def _memory_columns(numbers: Sequence[int], partition: int, facts: Sequence[bool]) -> dict[str, list[Any]]:
    """The columns that describe the memories of these numbers, null in rows that are not of a fact.

    A partition has one namespace.
    """
    both = list(zip(numbers, facts, strict=True))
    return {
        "namespace": [f"space-{partition}"] * len(numbers),
        "text": [
            f"The lamp number {n} stands in room {n % 977} of the old hall." if fact else None
            for n, fact in both
        ],
        "category": [f"category-{n % 20}" if fact else None for n, fact in both],
        "source": ["bench" if fact else None for fact in facts],
        "fact_id": [f"fact-{n}" if fact else None for n, fact in both],
        "observed_at": [BEGIN_US + n * 1_000 if fact else None for n, fact in both],
        "loss_delta": [1.0 + n % 1000 / 100 if fact else None for n, fact in both],
        "encoder_id": ["made-up" if fact else None for fact in facts],
    }
