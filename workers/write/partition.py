"""One partition of a writer: the fold of its history, and how events and uses are decided on it."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from itertools import groupby
from pathlib import Path

from pipeline.config import Settings
from pipeline.decide.decide import decide_fact
from pipeline.decide.requests import decide_forget, decide_nothing, decide_restore, decide_use
from pipeline.history import checkpoint, compaction
from pipeline.history import log as history
from pipeline.history.errors import CommitConflict, HistoryError, Unwritable
from pipeline.memory.bank import Bank
from pipeline.memory.events import Decision, Event, NewFact, NothingStated, RestoreRequest, SourceOffset
from pipeline.store.store import Store
from schemas.hits import MemoryHits
from workers.observe import log
from workers.runtime.worker import Retry
from workers.write.changelog import SentOffsets

CHECKPOINT_EVERY = 10_000
"""Decisions after which a checkpoint is written; or the number of memories, if that is larger."""

Now = Callable[[], datetime]


@dataclass
class Partition:
    """The memory of one partition after the last file of its history."""

    number: int
    bank: Bank
    version: int  # of the history's last file
    last: list[Decision]  # of that file
    sent: SentOffsets = field(default_factory=lambda: SentOffsets(0))
    since_checkpoint: int = 0  # decisions


def load(data: Path, number: int, settings: Settings) -> Partition:
    """Fold a partition's history, from its checkpoint on if there is a valid one. Raises HistoryError."""
    start = None
    try:
        start = checkpoint.read(data, number, settings)
    except HistoryError as error:  # the history has everything that the checkpoint has
        log.line("checkpoint not read", log.WARNING, reason=str(error))
    partition = Partition(number, *(start or (Bank(settings), -1, [])))
    for version, decisions in history.read(data, number, partition.version):
        for decision in decisions:
            partition.bank.apply(decision)
        partition.version, partition.last = version, decisions
        partition.since_checkpoint += len(decisions)
    return partition


def tidy(store: Store, partition: Partition) -> None:
    """Do one bounded step of compaction, and write a checkpoint when it is due. A failure is logged and tried again later."""
    try:
        with store.change(partition.number) as data:
            compaction.step(data, partition.number, time.time())
        if partition.since_checkpoint >= max(CHECKPOINT_EVERY, len(partition.bank)):
            with store.change(partition.number) as data:
                checkpoint.write(data, partition.number, partition.version, partition.last, partition.bank)
            partition.since_checkpoint = 0
    except (Unwritable, CommitConflict) as error:
        log.line("not compacted", log.WARNING, reason=str(error))


@dataclass
class Decided:
    """Decisions, in order, and the memories that they added, changed or removed."""

    decisions: list[Decision] = field(default_factory=list)
    changed: dict[tuple[str, str], None] = field(default_factory=dict)
    """(namespace, memory id): a set that keeps its order."""

    def apply(self, bank: Bank, decisions: Iterable[Decision]) -> None:
        """Applies decisions to the bank, and adds them."""
        for decision in decisions:
            changed = bank.apply(decision)
            self.changed.update(((decision.namespace, memory_id), None) for memory_id in sorted(changed))
            self.decisions.append(decision)


def decide_events(bank: Bank, events: Iterable[Event], now: Now) -> Decided:
    """Decides events in order and applies each decision. Those of a record that was decided before are skipped.

    The events of one record, such as the facts of a conversation, stand together in one message: all are decided, or none.
    """
    decided = Decided()
    for (namespace, cause), own in groupby(events, lambda event: (event.namespace, event.cause)):
        if not bank.is_decided(namespace, cause):
            for event in own:
                decided.apply(bank, _decide(bank, event, now()))
    return decided


def _decide(bank: Bank, event: Event, now: datetime) -> list[Decision]:
    if isinstance(event, NewFact):
        return decide_fact(bank, event, now)
    if isinstance(event, RestoreRequest):
        return decide_restore(bank, event, now)
    if isinstance(event, NothingStated):
        return decide_nothing(event, now)
    return decide_forget(bank, event, now)


def decide_hits(bank: Bank, hits: MemoryHits, cause: SourceOffset, now: Now) -> Decided:
    """Counts each memory's use in an answer and applies it. A request that is answered twice counts once."""
    decided = Decided()
    if bank.is_decided(hits.namespace, cause) or bank.is_counted(hits.namespace, hits.request_id):
        return decided
    for hit in hits.hits:
        decided.apply(
            bank, decide_use(bank, hits.namespace, hit.memory_id, hit.gate, hits.request_id, cause, now())
        )
    return decided


@contextmanager
def retried() -> Iterator[None]:
    """Turns errors of the store that may pass by themselves into Retry."""
    try:
        yield
    except (CommitConflict, Unwritable) as error:
        raise Retry(str(error)) from error
