"""Requests in flight: those that wait, those that are being answered, and the offsets to commit.

Requests of one partition finish in any order, so a partition is committed up to its first request that is still in flight.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from schemas.reply import ReturnAddress
from schemas.request import GenerationRequest
from workers.kafka import TopicPartition

if TYPE_CHECKING:
    from pipeline.fusion.row import Row  # imports a model's library


@dataclass(eq=False)
class Pending:
    """A request that waits, is being answered, or has been answered and is not durable yet."""

    record: Any
    address: ReturnAddress
    request: GenerationRequest
    wait_until: float  # monotonic: how long it waits for the memories that its `after` names
    started_epoch_s: float = 0.0  # the start of its generation, in seconds since the epoch
    started: float = 0.0  # the same on the monotonic clock
    ended: float = 0.0  # monotonic; 0 until then
    deltas: int = 0  # sent
    answered: bool = False  # whether it ended without an error
    history_row: dict[str, Any] | None = None  # of its answer; None for a task that generates nothing, too

    @property
    def request_id(self) -> str:
        return self.address.request_id

    @property
    def partition(self) -> TopicPartition:
        return TopicPartition(self.record.topic, self.record.partition)

    def is_late(self) -> bool:
        """Whether the client's deadline has passed."""
        deadline = self.request.deadline
        return deadline is not None and time.time() > deadline.timestamp()


@dataclass
class InFlight:
    """All requests that were read, and whose offsets may not be committed yet."""

    waiting: deque[Pending] = field(default_factory=deque)
    running: dict[Row, Pending] = field(default_factory=dict)
    _all: dict[tuple[TopicPartition, int], Pending] = field(default_factory=dict)
    _read: dict[TopicPartition, int] = field(default_factory=dict)  # the next offset of each partition

    def __bool__(self) -> bool:
        return bool(self._all)

    def read(self, record: Any) -> bool:
        """Notes that a record was read. Returns False if its request is already in flight, as after a failure."""
        partition = TopicPartition(record.topic, record.partition)
        self._read[partition] = record.offset + 1
        return (partition, record.offset) not in self._all

    def add(self, pending: Pending) -> None:
        self._all[pending.partition, pending.record.offset] = pending
        self.waiting.append(pending)

    def keep(self, partitions: Collection[TopicPartition]) -> list[Row]:
        """Drops the requests of all other partitions, which another generator answers. Returns their running rows."""
        self._all = {where: p for where, p in self._all.items() if where[0] in partitions}
        self.waiting = deque(p for p in self.waiting if p.partition in partitions)
        lost = [row for row, p in self.running.items() if p.partition not in partitions]
        for row in lost:
            del self.running[row]
        return lost

    def restart(self) -> None:
        """Puts all requests back to waiting, also answered ones: their answers may not have arrived."""
        for p in self._all.values():
            p.ended, p.deltas, p.answered, p.history_row = 0.0, 0, False, None
        self.waiting, self.running = deque(self._all.values()), {}

    def ended(self) -> list[Pending]:
        """The requests that were answered or failed, and are not durable yet."""
        return [p for p in self._all.values() if p.ended]

    def settle(self, ended: Collection[Pending]) -> None:
        """Drops requests whose answers are durable."""
        for p in ended:
            del self._all[p.partition, p.record.offset]

    def next_offsets(self, partitions: Collection[TopicPartition]) -> dict[TopicPartition, int]:
        """The offset to commit of each partition: that of its first request in flight, or the next one to read."""
        first: dict[TopicPartition, int] = {}
        for partition, offset in self._all:
            first[partition] = min(offset, first.get(partition, offset))
        return {partition: first.get(partition, self._read[partition]) for partition in partitions}
