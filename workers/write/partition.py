"""One partition of a writer: the fold of its history, and how events and uses are decided on it."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from pipeline.config import Settings
from pipeline.decide.decide import decide_fact, decide_forget, decide_use
from pipeline.history import checkpoint, compaction, layout
from pipeline.history import log as history
from pipeline.history.errors import HistoryError, Unwritable
from pipeline.memory.bank import Bank
from pipeline.memory.events import Decision, ForgetRequest, NewFact, SourceOffset
from schemas.hits import MemoryHits
from workers.observe import log
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


def is_current(data: Path, partition: Partition) -> bool:
    """Whether no other writer has appended to the history since the partition was loaded."""
    return partition.version == layout.last_version(data, partition.number)


def tidy(data: Path, partition: Partition) -> None:
    """Do one bounded step of compaction, and write a checkpoint when it is due. A failure is logged and tried again later."""
    try:
        compaction.step(data, partition.number, time.time())
        if partition.since_checkpoint >= max(CHECKPOINT_EVERY, len(partition.bank)):
            checkpoint.write(data, partition.number, partition.version, partition.last, partition.bank)
            partition.since_checkpoint = 0
    except Unwritable as error:
        log.line("not compacted", log.WARNING, reason=str(error))


def decide_events(bank: Bank, events: Iterable[NewFact | ForgetRequest], now: Now) -> list[Decision]:
    """Decide events in order and apply each decision. An event that was decided before is skipped."""
    decided: list[Decision] = []
    for event in events:
        if bank.is_decided(event.namespace, event.cause):
            continue
        if isinstance(event, NewFact):
            decisions = decide_fact(bank, event, now())
        else:
            decisions = decide_forget(bank, event, now())
        for decision in decisions:
            bank.apply(decision)
        decided += decisions
    return decided


def decide_hits(bank: Bank, hits: MemoryHits, cause: SourceOffset, now: Now) -> list[Decision]:
    """Count each memory's use in an answer and apply it. A request that is answered twice counts once."""
    if bank.is_decided(hits.namespace, cause) or bank.is_counted(hits.namespace, hits.request_id):
        return []
    decided: list[Decision] = []
    for hit in hits.hits:
        decisions = decide_use(bank, hits.namespace, hit.memory_id, hit.gate, hits.request_id, cause, now())
        for decision in decisions:
            bank.apply(decision)
        decided += decisions
    return decided
