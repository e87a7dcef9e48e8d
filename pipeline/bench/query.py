"""How fast queries over a history are that was written in small pieces and compacted, beside one flat file of the same rows.

The rows are made up: a third of them makes memories, of which one in nine is left at the end; the others use, repeat, renew
and remove them. Their vectors are one byte a word, for no query reads them. The same for the same seed.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.history import checkpoint as snapshot
from pipeline.history import compaction
from pipeline.history import log as history
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
"""The README's over the history, and the columns that each rests on."""

Shown = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Analysis:
    seconds: float  # median, with a connection of its own
    flat_seconds: float  # of reading its columns from one flat file
    ratio: float  # flat_seconds / seconds
    cpu_seconds: float  # the same by the processor's time: where others use the machine as well
    flat_cpu_seconds: float
    cpu_ratio: float


@dataclass(frozen=True, slots=True)
class Query:
    rows: int
    memories: int
    files_written: int
    files: int  # after compaction
    compaction_seconds: float
    analyses: dict[str, Analysis]
    least_ratio: float
    most_seconds: float


def measure(folder: Path, rows: int, flush: int, seed: int, shown: Shown) -> Query:
    """`folder`: an empty one. `flush`: rows of a file as it is written."""
    data, flat = folder / "data", folder / "flat.parquet"
    spaces, took = [_Space(n) for n in range(PARTITIONS)], 0.0
    dice = Random(seed)
    with pq.ParquetWriter(flat, HISTORY, compression="zstd") as out:
        waiting: list[pa.Table] = []
        for number, begin in enumerate(range(0, rows, flush)):
            space = spaces[number % PARTITIONS]
            table = space.rows(range(begin, min(begin + flush, rows)), dice)
            history.append_table(data, space.partition, space.written, table)
            if space.due(rows // PARTITIONS):
                space.snapshot(data, table)
            space.written += 1
            waiting.append(table)
            if len(waiting) * flush >= 1_000_000 or begin + flush >= rows:
                out.write_table(pa.concat_tables(waiting), row_group_size=122_880)  # as DuckDB's own
                waiting = []
            if space.written % (compaction.FAN // 2) == 0:
                took += _compact(data, space.partition, 1)
            shown("rows written", table.num_rows, rows)
    for space in spaces:
        took += _compact(data, space.partition, rows)
    [[count]] = query.run(data, "select count(*) as n from memories").to_pydict().values()
    if count != sum(len(space.alive) for space in spaces):
        raise ValueError(f"{count} memories by SQL are not those that were made")
    analyses = {}
    for name, (sql, columns) in ANALYSES.items():
        reading = "SELECT " + ", ".join(f"sum({_size(column)})" for column in columns) + f" FROM '{flat}'"
        ours, flats = list[tuple[float, float]](), list[tuple[float, float]]()
        for _ in range(REPEATS):
            ours.append(_timed(lambda sql=sql: query.run(data, sql)))  # type: ignore[misc]
            flats.append(_timed(lambda sql=reading: _plain(sql)))  # type: ignore[misc]
        (took_s, cpu), (flat_s, flat_cpu) = (map(median, zip(*x, strict=True)) for x in (ours, flats))
        analyses[name] = Analysis(took_s, flat_s, flat_s / took_s, cpu, flat_cpu, flat_cpu / cpu)
        shown("analyses", 1, len(ANALYSES))
    files = sum(len(history.files(data, partition)) for partition in range(PARTITIONS))
    return Query(rows, count, sum(space.written for space in spaces), files, took, analyses, 0.5, 2.0)


def _compact(data: Path, partition: int, steps: int) -> float:
    began = time.perf_counter()
    while steps and compaction.step(data, partition, time.time() + compaction.KEEP_S):
        steps -= 1
    return time.perf_counter() - began


def _timed(call: Callable[[], object]) -> tuple[float, float]:
    """Seconds by the clock, and of the processor."""
    began, cpu = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - began, time.process_time() - cpu


def _plain(sql: str) -> object:
    with duckdb.connect(":memory:", config={"memory_limit": "1GB", "threads": 2}) as connection:
        return connection.execute(sql).fetchall()


def _size(column: str) -> str:
    return f"length({column})" if pa.types.is_string(HISTORY.field(column).type) else column


class _Space:
    """A partition as its rows are made up: which memories there are, and how often each was used."""

    def __init__(self, partition: int) -> None:
        self.partition, self.written, self.decided = partition, 0, 0
        self.alive: list[int] = []  # numbers of the rows that made them
        self.uses: dict[int, int] = {}
        self.reinforced: dict[int, int] = {}
        self.weights: dict[int, float] = {}
        self._kept = False

    def due(self, rows: int) -> bool:
        """Whether a writer's last snapshot before so many rows may be made now, and not later: it makes the next when there
        are as many decisions more as memories."""
        return not self._kept and self.decided >= rows - len(self.alive)

    def rows(self, numbers: range, dice: Random) -> pa.Table:
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
                for kept in (self.uses, self.reinforced, self.weights):
                    kept.pop(old, None)
            if outcomes[i] in ("learned", "superseded"):
                self.alive.append(n)
                self.weights[n] = n / 1e6
            elif outcomes[i] in ("used", "reinforced"):
                counts = self.uses if outcomes[i] == "used" else self.reinforced
                counts[old] = counts.get(old, 0) + 1
                self.weights[old] = n / 1e6
            about.append(n if outcomes[i] in ("learned", "superseded", "skipped") else old)
        self.decided += len(numbers)
        making = [outcome in ("learned", "superseded") for outcome in outcomes]
        facts = [outcome not in ("used", "evicted") for outcome in outcomes]
        columns = _of_memories(about, self.partition, facts) | {
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
            "partition": [self.partition] * len(numbers),
            "offset": list(numbers),
        }
        for name, value in (("priors", [1.0] * 8), ("surprisals", [1.0] * 8), ("vectors", b"12345678")):
            columns[name] = [value if new else None for new in making]
        return pa.table(
            {f.name: pa.array(columns.get(f.name, [None] * len(numbers)), f.type) for f in HISTORY}, HISTORY
        )

    def snapshot(self, data: Path, last: pa.Table) -> None:
        """What a writer would have kept after the batch `last`."""

        def batches() -> Iterator[pa.RecordBatch]:
            for begin in range(0, len(self.alive), 4_096):
                some = self.alive[begin : begin + 4_096]
                columns = _of_memories(some, self.partition, [True] * len(some)) | {
                    "memory_id": [f"{n:032x}" for n in some],
                    "learned_at": [BEGIN_US + n * 1_000 for n in some],
                    "last_used_at": [BEGIN_US if n in self.uses else None for n in some],
                    "importance": [self.weights[n] for n in some],
                    "uses": [self.uses.get(n, 0) for n in some],
                    "reinforced": [self.reinforced.get(n, 0) for n in some],
                    "priors": [[1.0] * 8] * len(some),
                    "surprisals": [[1.0] * 8] * len(some),
                    "vectors": [b"12345678"] * len(some),
                }
                yield pa.record_batch(
                    [pa.array(columns[f.name], f.type) for f in CHECKPOINT], schema=CHECKPOINT
                )

        state: dict[str, object] = {"mark": snapshot.mark(decisions_from_table(last, False)), "spaces": {}}
        self._kept = snapshot.write_batches(data, self.partition, self.written, state, batches())


def _of_memories(numbers: Sequence[int], partition: int, told: Sequence[bool]) -> dict[str, list[Any]]:
    """What rows say of the memories of these numbers, where they tell a fact. A partition has one namespace."""
    both = list(zip(numbers, told, strict=True))
    return {
        "namespace": [f"space-{partition}"] * len(numbers),
        "text": [
            f"The lamp number {n} stands in room {n % 977} of the old hall." if t else None for n, t in both
        ],
        "category": [f"category-{n % 20}" if t else None for n, t in both],
        "source": ["bench" if t else None for t in told],
        "fact_id": [f"fact-{n}" if t else None for n, t in both],
        "observed_at": [BEGIN_US + n * 1_000 if t else None for n, t in both],
        "loss_delta": [1.0 + n % 1000 / 100 if t else None for n, t in both],
        "encoder_id": ["made-up" if t else None for t in told],
    }
