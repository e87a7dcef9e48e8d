"""A generator's replica of the memory: the changelog, applied to a MemoryLM.

It reads every partition of the changelog from its beginning (Kafka Streams would say a global table). It knows no requests
but for what they wait for.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipeline.memory.codec import memory_from_record
from schemas.changelog import PositionRecord, decode_changelog
from schemas.common import BadMessage
from schemas.request import GenerationRequest
from workers.kafka.consumer import check_readable
from workers.kafka.offsets import caught_up
from workers.kafka.partitioner import partition_for
from workers.observe import log

if TYPE_CHECKING:
    from pipeline.memory_lm import MemoryLM  # imports a model's library


@dataclass
class Table:
    """The replica.

    What cannot be taken is logged and left out. It is no dead letter here, for every generator reads the whole changelog
    at each start, and each would send the same letters again: the writer, which owns the changelog, does it once.
    """

    lm: MemoryLM
    consumer: Any
    partitions: int  # of the changelog: a record counts only where its namespace lives
    positions: dict[str, dict[str, int]] = field(default_factory=dict)
    foreign: int = 0  # memories of another model, which are not loaded

    def catch_up(self, limit_s: float) -> bool:
        """Reads what the changelog has, and with no time what is here of it already; False when there is still more."""
        end = time.monotonic() + limit_s
        while True:
            for records in self.consumer.poll(timeout_ms=50 if limit_s else 0).values():
                for record in records:
                    self.take(record)
            if caught_up(self.consumer):
                return True
            if time.monotonic() > end:
                return False

    def take(self, record: Any) -> None:
        try:
            check_readable(record)
            told = decode_changelog(record.key, record.value)
            namespace, _, memory_id = (record.key or b"").decode("utf-8", "replace").partition("/")
            if partition_for(namespace, self.partitions) != record.partition:
                raise BadMessage("wrong-partition", f"the namespace {namespace!r} lives in another one")
            if isinstance(told, PositionRecord):
                self.positions[told.namespace] = told.positions
            elif told is not None:
                self.lm.put(memory_from_record(told))
            else:
                self.lm.remove(namespace, memory_id)
        except (ValueError, BadMessage) as error:
            self.foreign += 1
            if self.foreign == 1:
                log.line("memory not loaded", error=str(error)[:200])

    def has(self, request: GenerationRequest) -> bool:
        return all(
            self.positions.get(namespace, {}).get(where, -1) >= offset
            for namespace, wanted in (request.after or {}).items()
            for where, offset in wanted.items()
        )
