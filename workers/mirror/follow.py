"""`factstream mirror`: follows the history into a Delta table.

Once it has caught up, it commits once a minute at most. It only reads the history: the data folder, or this machine's copy of a store as it
is when a pass begins. A mirror that was stopped or killed goes on after the last version in the table. A text that was erased leaves the
table with the pass after its erasure; until the writer has carried an erasure out, the mirror waits with what follows.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from pipeline.history import erasure, layout, log
from pipeline.history.errors import HistoryError
from pipeline.store.opening import store_at
from workers.mirror import table as delta
from workers.observe.log import WARNING, line
from workers.runtime.signals import Stop

ROWS = 100_000
"""Rows after which a commit ends."""
EVERY_S = 60.0
"""Seconds between two passes."""
RETRIES = 5
BACKOFF_S = 1.0
"""Seconds after the first failure, doubled with each."""


@dataclass
class Passed:
    """What a pass brought into the table."""

    rows: int = 0
    commits: int = 0
    rewritten: list[int] = field(default_factory=list)
    """Partitions of which texts were erased."""


@dataclass
class _Part:
    """What is new of a partition."""

    tables: list[pa.Table] = field(default_factory=list)
    last: int = -1
    erases: bool = False


def once(data: Path, uri: str, stop: Callable[[], bool] = lambda: False) -> Passed:
    """Brings the table up to the history. Raises HistoryError, DeltaError, OSError, and ValueError for another history's table."""
    passed, table = Passed(), delta.opened(uri)
    delta.vacuum(table)  # what a killed mirror has left: its rewrite may have been for an erasure
    with store_at(data).view(rows=False) as folder:
        for partition in layout.partitions(folder):
            _check_same(folder, table, partition)
        while not stop() and _commit(folder, table, passed, stop):
            table.update_incremental()
    return passed


def follow(data: Path, uri: str, stop: Stop) -> None:
    """Passes until `stop`. Raises as `once`, after RETRIES failures in a row."""
    failures = 0
    while not stop.is_set():
        try:
            passed = once(data, uri, stop.is_set)
            failures = 0
            if passed.commits:
                line("mirrored", rows=passed.rows, commits=passed.commits, erased_in=passed.rewritten)
            stop.wait(EVERY_S)
        except (DeltaError, OSError, HistoryError) as error:
            failures += 1
            if failures > RETRIES:
                raise
            line("retry", WARNING, reason=str(error))
            stop.wait(BACKOFF_S * 2**failures)


def _commit(data: Path, table: DeltaTable, passed: Passed, stop: Callable[[], bool]) -> bool:
    """Commits what is new, at most about ROWS rows. Returns whether there was anything."""
    new: list[pa.Table] = []
    last: dict[int, int] = {}
    for partition in layout.partitions(data):
        after = delta.reached(table, partition)
        part = _new(data, partition, after, stop)
        if part.erases:
            # At once to the history's end: it may have more erasures, and each would rewrite all before it.
            end = _last(data, partition)
            delta.rewrite(table, partition, _all(data, partition, end, passed, after), end)
            delta.vacuum(table)
            passed.rewritten.append(partition)
            passed.commits += 1
            return True
        if part.tables:
            new += part.tables
            last[partition] = part.last
        if sum(one.num_rows for one in new) >= ROWS:
            break
    if new:
        delta.append(table, new, last)
        passed.commits += 1
        passed.rows += sum(one.num_rows for one in new)
    return bool(new)


def _new(data: Path, partition: int, after: int, stop: Callable[[], bool]) -> _Part:
    """The versions that follow, up to about ROWS rows, to one that erases, and to an erasure that is not carried out yet."""
    part, count = _Part(), 0
    for version, decisions in log.read(data, partition, after):
        erases = any(decision.outcome == "erased" for decision in decisions)
        if erases and not _is_carried_out(data, partition, version):
            break
        part.tables.append(delta.rows(partition, version, decisions))
        part.last, part.erases = version, part.erases or erases
        count += len(decisions)
        if part.erases or count >= ROWS or stop():
            break
    return part


def _is_carried_out(data: Path, partition: int, version: int) -> bool:
    """Whether the erasures of a version are done. A writer does those of its last version before it appends the next one."""
    return version < layout.last_version(data, partition) or erasure.is_carried_out(data, partition, version)


def _last(data: Path, partition: int) -> int:
    """The last version whose erasures are done."""
    last = layout.last_version(data, partition)
    waits = any(
        decision.outcome == "erased" and not _is_carried_out(data, partition, version)
        for version, decisions in log.read(data, partition, last - 1)
        for decision in decisions
        if version == last
    )
    return last - waits


def _all(data: Path, partition: int, last: int, passed: Passed, after: int) -> delta.Versions:
    """The versions up to `last`; those that follow `after` are counted as brought."""
    for version, decisions in log.read(data, partition):
        if version > last:
            return
        passed.rows += len(decisions) if version > after else 0
        yield version, decisions


def _check_same(data: Path, table: DeltaTable, partition: int) -> None:
    """Raises ValueError where the table has versions that the history lacks."""
    reached, end = delta.reached(table, partition), layout.last_version(data, partition)
    if reached > end:
        raise ValueError(
            f"the table has version {reached} of partition {partition}, and the history ends with {end}: it is of another data "
            "folder, or of one before it was restored; take a new table"
        )
