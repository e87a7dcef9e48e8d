"""A generator's replica of the memory: partitions of the changelog, applied to a MemoryLM.

Which partitions is the generator's choice: all of them, as a global table of Kafka Streams has it, or those whose
requests it answers, as one of its tables.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from pipeline.memory.codec import memory_from_record
from schemas import topics
from schemas.changelog import PositionRecord, decode_changelog, split_key
from schemas.common import BadMessage
from schemas.request import GenerationRequest
from workers.kafka import TopicPartition
from workers.kafka.config import KafkaSettings
from workers.kafka.consumer import check_readable
from workers.kafka.offsets import caught_up, with_records
from workers.kafka.partitioner import partition_for
from workers.observe import log, metrics
from workers.runtime.loading import give_back

if TYPE_CHECKING:
    from pipeline.memory_lm import MemoryLM  # imports a model's library

NEWEST = 64
"""Memories that are read ahead, of the last that came."""
AT_ONCE = 2
"""Memories that are read ahead in one go, which a request may have to wait for: about .4 s on two cores."""
QUIET_S = 1.0
"""Seconds without a new memory after which they are read: while many come, others need the processor."""
INCOMPATIBLE = "incompatible"
"""The reason for a memory that cannot be compared with prompts, such as another model's."""


@dataclass
class Replica:
    """A MemoryLM that follows the changelog.

    A record that cannot be applied is counted, logged and left out. It is not sent to dead letters: every generator reads
    its changelog at each start, and each would send it again. The writer, which owns the changelog, sends it once.
    """

    lm: MemoryLM
    consumer: Any
    partitions: int  # of the changelog: a record is applied only in its namespace's partition
    topic: str = topics.MEMORY_CHANGELOG
    positions: dict[str, dict[str, int]] = field(default_factory=dict)
    """Last offset that the memories include, by namespace and source partition."""
    refused: Counter[str] = field(default_factory=Counter)
    """Records that were not applied, by reason."""
    loading: set[int] = field(default_factory=set)
    """The followed partitions that have not been read to their ends once."""
    newest: deque[str] = field(default_factory=lambda: deque(maxlen=NEWEST))
    """Texts of memories that are not read ahead yet."""
    changed: float = 0.0  # when the last memory came

    @classmethod
    def open(cls, lm: MemoryLM, settings: KafkaSettings) -> Self:
        """A replica with a consumer of its own, which follows no partition yet. Raises KafkaUnavailable."""
        consumer, topic = settings.consumer(), settings.topic(topics.MEMORY_CHANGELOG)
        return cls(lm, consumer, len(consumer.partitions_for_topic(topic)), topic)

    def follow(self, numbers: Collection[int]) -> None:
        """Follows these partitions of the changelog, new ones from their beginning, and frees the memories of all others."""
        followed, wanted = {tp.partition for tp in self.consumer.assignment()}, set(numbers)
        if gone := followed - wanted:
            for namespace in {*self.lm.bank.namespaces, *self.positions}:
                if partition_for(namespace, self.partitions) in gone:
                    self.lm.bank.drop(namespace)
                    self.positions.pop(namespace, None)
            give_back()
        if wanted != followed:
            self.consumer.assign([TopicPartition(self.topic, number) for number in sorted(wanted)])
        self.loading &= wanted
        if new := [TopicPartition(self.topic, number) for number in sorted(wanted - followed)]:
            self.consumer.seek_to_beginning(*new)
            self.loading |= {tp.partition for tp in with_records(self.consumer, new)}

    def catch_up(self, limit_s: float) -> bool:
        """Applies new records for about `limit_s` seconds; with 0, those already fetched. Returns False if there are more."""
        end = time.monotonic() + limit_s
        while self.consumer.assignment():
            for records in self.consumer.poll(timeout_ms=50 if limit_s else 0).values():
                for record in records:
                    self.apply(record)
            for number in sorted(self.loading):
                if caught_up(self.consumer, [TopicPartition(self.topic, number)]):
                    self.loading.remove(number)
            if not self.loading and caught_up(self.consumer):
                return True
            if time.monotonic() > end:
                return False
        return True

    def read_ahead(self) -> None:
        """Lets the model read a few of the newest memories before anyone asks; call it while there are no requests."""
        if not self.newest or time.monotonic() - self.changed < QUIET_S:
            return
        try:
            self.lm.read_ahead([self.newest.pop() for _ in range(min(AT_ONCE, len(self.newest)))])
        except Exception as error:  # of the model: a request that needs the memory gets it, too
            log.line("not read ahead", error=str(error)[:200])

    def apply(self, record: Any) -> None:
        try:
            self._apply(record)
        except BadMessage as error:
            self._refuse(error.reason, error)
        except ValueError as error:
            self._refuse(INCOMPATIBLE, error)

    def _apply(self, record: Any) -> None:
        check_readable(record)
        change = decode_changelog(record.key, record.value)
        namespace, memory_id = split_key(record.key or b"")
        if partition_for(namespace, self.partitions) != record.partition:
            raise BadMessage("wrong-partition", f"the namespace {namespace!r} belongs to another partition")
        if isinstance(change, PositionRecord):
            self.positions[change.namespace] = change.positions
        elif change is not None:
            memory = memory_from_record(change)
            self.lm.put(memory)
            self.newest.append(memory.text)
            self.changed = time.monotonic()
        else:
            self.lm.remove(namespace, memory_id)

    def _refuse(self, reason: str, error: Exception) -> None:
        """Counts a record, and logs the first one of each reason: there may be thousands of another model."""
        self.refused[reason] += 1
        metrics.REFUSED.labels(reason).inc()
        if self.refused[reason] == 1:
            log.line("memory not loaded", reason=reason, error=str(error)[:200])

    def has(self, request: GenerationRequest) -> bool:
        """Whether the memories include the facts that the request's `after` names, of the namespaces that it needs."""
        return all(
            self.positions.get(namespace, {}).get(source, -1) >= offset
            for namespace in request.remembered
            for source, offset in (request.after or {}).get(namespace, {}).items()
        )
