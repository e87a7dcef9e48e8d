"""The source worker: changes on upstream topics in, facts and requests to forget out.

A record that cannot be mapped goes to the dead letters, with the reason; those of its statements that can are sent. Delivery is
at least once: messages are flushed before the upstream offsets are committed. A record makes the same messages whenever it is
read, each with the same time and each fact with the same fact_id, so what is sent again changes nothing.
"""

import time
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import orjson

from schemas.topics import DEAD_LETTERS, FACTS, TOPICS
from workers.kafka import TopicPartition
from workers.kafka.config import KafkaSettings
from workers.kafka.dead_letters import dead_letter
from workers.kafka.producer import Producer
from workers.observe import log, metrics, tracing
from workers.runtime.worker import Done, Retry, Worker
from workers.source.config import Config
from workers.source.decoding.errors import RegistryDown
from workers.source.mapping import Message
from workers.source.record import Mapper, Result

BATCH_S = 4.0
"""Seconds after which the rest of a batch is left for the next one."""
LOOK_S = 5.0


class SourceWorker(Worker):
    name = "source"
    topics: Sequence[str] = ()
    uses: Sequence[str] = (FACTS, DEAD_LETTERS)
    read_committed = True

    def __init__(self, settings: KafkaSettings, config: Config) -> None:
        """Raises ValueError if a source is a topic of factstream's own, or a library is missing."""
        self.upstream = [source.topic for source in config.sources]
        own = {settings.topic(topic.name) for topic in TOPICS}
        if loops := sorted(own.intersection(self.upstream)):
            raise ValueError(f"{loops[0]} is a topic of factstream itself: a source is another system's")
        self._settings = settings
        self._mapper = Mapper(config)
        self._producer: Producer | None = None
        self._partitions = 0
        self._deleted: dict[TopicPartition, bytes | None] = {}
        """The key of the last record read of each partition if it deleted a row, else None."""
        self._unflushed: set[tuple[str, str]] = set()
        """The statements, by namespace and key, about which messages were sent since the last flush."""

    def start(self, consumer: Any, topic_ids: dict[str, str]) -> None:
        self._partitions = len(consumer.partitions_for_topic(self._settings.topic(DEAD_LETTERS)) or ())
        self._producer = self._settings.producer()
        self._consumer, self._missing = consumer, list(self.upstream)
        self._look()
        for topic in self._missing:
            log.line("no such topic", log.WARNING, topic=topic, hint="it is read once it exists")

    def assigned(self, partitions: list[TopicPartition]) -> None:
        for partition in partitions:
            self._deleted.pop(partition, None)

    def idle(self) -> None:
        """Look for topics that did not exist. The client by itself does so every five minutes."""
        if self._missing and time.monotonic() - self._looked > LOOK_S:
            self._look()

    def _look(self) -> None:
        self._missing = [topic for topic in self._missing if not self._consumer.partitions_for_topic(topic)]
        self._looked = time.monotonic()

    def ready(self) -> dict[str, str | int]:
        return {"sources": len(self.upstream)}

    def close(self) -> None:
        self._mapper.close()
        if self._producer:
            self._producer.close()

    def process(self, records: dict[TopicPartition, list[Any]]) -> Done:
        """Map the records and send what they become; as many of them as there is time for, and a registry."""
        assert self._producer is not None
        self.idle()
        started, counts = time.monotonic(), Counter[str]()
        waiting = [(partition, record) for partition, some in records.items() for record in some]
        reached: dict[TopicPartition, int] = {}
        complete = True
        for partition, record in waiting:
            try:
                result = self._mapper.map(record, self._is_echo(partition, record))
            except RegistryDown as error:
                if not reached:
                    raise Retry(str(error)) from None
                complete = False
                break
            self._send(record, result, counts)
            self._deleted[partition] = record.key if result.deletes else None
            reached[partition] = record.offset + 1
            if time.monotonic() - started > BATCH_S:
                complete = record is waiting[-1][1]
                break
        self._flush()
        return Done(dict(counts), None if complete else reached)

    def _is_echo(self, partition: TopicPartition, record: Any) -> bool:
        """Whether the record, if a tombstone, only follows the deletion before it; also where that one is not known.

        It is unknown for the first record that is read of a partition.
        """
        return partition not in self._deleted or (
            record.key is not None and self._deleted[partition] == record.key
        )

    def _send(self, record: Any, result: Result, counts: "Counter[str]") -> None:
        assert self._producer is not None
        trace = tracing.header(tracing.of(record.headers))
        for mapped in result.mapped:
            counts[mapped.verdict] += 1
            metrics.MAPPED.labels(record.topic, mapped.verdict).inc()
            for message in mapped.messages:
                self._send_one(message, trace)
        if result.error:
            counts["dead_letters"] += 1
            now, home = datetime.now(UTC), record.partition % self._partitions
            dead_letter(self._producer, record, result.error.reason, str(result.error), self.name, now, home)

    def _send_one(self, message: Message, trace: tracing.Headers) -> None:
        """Send a message; one about the same statement as one before it only after that has arrived.

        A producer that gives up a record may still deliver the next: sent again, the first would come last.
        """
        assert self._producer is not None
        statement = (message.namespace, str(message.body.get("key") or message.body.get("forget_key")))
        if statement in self._unflushed:
            self._flush()
        self._unflushed.add(statement)
        self._producer.send(FACTS, orjson.dumps(message.body), message.namespace.encode(), None, trace)

    def _flush(self) -> None:
        assert self._producer is not None
        self._unflushed.clear()
        self._producer.flush_or_raise()
