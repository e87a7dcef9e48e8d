"""A generator's replica of the memory: every partition of the changelog, applied to a MemoryLM.

Kafka Streams would call it a global table.
"""

from __future__ import annotations

import time
from collections import Counter
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
from workers.kafka.offsets import caught_up
from workers.kafka.partitioner import partition_for
from workers.observe import log, metrics

if TYPE_CHECKING:
    from pipeline.memory_lm import MemoryLM  # imports a model's library

INCOMPATIBLE = "incompatible"
"""The reason for a memory that cannot be compared with prompts, such as another model's."""


@dataclass
class Replica:
    """A MemoryLM that follows the changelog.

    A record that cannot be applied is counted, logged and left out. It is not sent to dead letters: every generator reads
    the whole changelog at each start, and each would send it again. The writer, which owns the changelog, sends it once.
    """

    lm: MemoryLM
    consumer: Any
    partitions: int  # of the changelog: a record is applied only in its namespace's partition
    positions: dict[str, dict[str, int]] = field(default_factory=dict)
    """By namespace and source partition: the last offset that the memories include."""
    refused: Counter[str] = field(default_factory=Counter)
    """Records that were not applied, by reason."""

    @classmethod
    def open(cls, lm: MemoryLM, settings: KafkaSettings) -> Self:
        """A replica that reads the changelog from its beginning, with a consumer of its own. Raises KafkaUnavailable."""
        consumer, topic = settings.consumer(), settings.topic(topics.MEMORY_CHANGELOG)
        partitions = len(consumer.partitions_for_topic(topic))
        consumer.assign([TopicPartition(topic, p) for p in range(partitions)])
        consumer.seek_to_beginning()
        return cls(lm, consumer, partitions)

    def catch_up(self, limit_s: float) -> bool:
        """Applies new records for about `limit_s` seconds; with 0, those already fetched. Returns False if there are more."""
        end = time.monotonic() + limit_s
        while True:
            for records in self.consumer.poll(timeout_ms=50 if limit_s else 0).values():
                for record in records:
                    self.apply(record)
            if caught_up(self.consumer):
                return True
            if time.monotonic() > end:
                return False

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
            self.lm.put(memory_from_record(change))
        else:
            self.lm.remove(namespace, memory_id)

    def _refuse(self, reason: str, error: Exception) -> None:
        """Counts a record, and logs the first one of each reason: there may be thousands of another model."""
        self.refused[reason] += 1
        metrics.REFUSED.labels(reason).inc()
        if self.refused[reason] == 1:
            log.line("memory not loaded", reason=reason, error=str(error)[:200])

    def has(self, request: GenerationRequest) -> bool:
        """Whether the memories include all facts that the request's `after` names."""
        return all(
            self.positions.get(namespace, {}).get(source, -1) >= offset
            for namespace, offsets in (request.after or {}).items()
            for source, offset in offsets.items()
        )
