"""Writers on a cluster in memory, and the messages of a few facts, for tests of writers."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
from kafka import TopicPartition
from kafka.errors import KafkaTimeoutError

from pipeline.history import log as history
from pipeline.memory.events import Decision
from pipeline.text.words import split
from schemas import topics
from schemas.changelog import MemoryRecord, PositionRecord
from schemas.common import decode
from schemas.encoding import FACT_ENCODINGS, encode_batch
from workers.kafka.config import KafkaSettings
from workers.kafka.partitioner import partition_for
from workers.write.partition import load
from workers.write.worker import WriterWorker

NOW = datetime(2026, 1, 2, tzinfo=UTC)
TEXTS = [
    "Torben Betts was from Munich.",
    "The Harlow lamp is made of walnut.",
    "Torben Betts was from Perth.",
    "The Harlow lamp is made of walnut.",
]
OUTCOMES = ["learned", "learned", "superseded", "reinforced"]
IDS = {topic.name: f"id-{topic.name}" for topic in topics.TOPICS}
PARTITIONS = 4
HOME = partition_for("default", PARTITIONS)


class Sent:
    """A producer that keeps flushed records; its first `failures` flushes fail."""

    def __init__(self, settings: KafkaSettings) -> None:
        self.settings = settings
        self.records: list[SimpleNamespace] = []
        self.failures = 0
        self._waiting: list[SimpleNamespace] = []

    def send(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None = None,
        partition: int | None = None,
        headers: Iterable[tuple[str, bytes]] = (),
    ) -> None:
        self._waiting.append(
            SimpleNamespace(topic=topic, value=value, key=key, partition=partition, headers=list(headers))
        )

    def flush_or_raise(self) -> list[SimpleNamespace]:
        waiting, self._waiting = self._waiting, []
        if self.failures:
            self.failures -= 1
            raise KafkaTimeoutError("nobody acknowledged")
        for record in waiting:
            record.offset = len(self.at(record.topic, record.partition))
            self.records.append(record)
        return waiting

    def at(self, topic: str, partition: int) -> list[SimpleNamespace]:
        return [record for record in self.on(topic) if record.partition == partition]

    def end(self) -> int:
        return len(self.at(topics.MEMORY_CHANGELOG, HOME))

    def crash(self) -> None:
        """What is not flushed is gone, and the next process has a broker that answers."""
        self._waiting, self.failures = [], 0

    def close(self) -> None: ...

    def on(self, topic: str) -> list[SimpleNamespace]:
        return [record for record in self.records if record.topic == topic]

    def compacted(self) -> dict[bytes, bytes]:
        last = {record.key: record.value for record in self.on(topics.MEMORY_CHANGELOG)}
        return {key: value for key, value in last.items() if key and value is not None}


class Reader:
    """A consumer of the sent records, without a group."""

    def __init__(self, sent: Sent) -> None:
        self._sent = sent
        self._positions: dict[TopicPartition, int] = {}

    def unsubscribe(self) -> None: ...
    def seek_to_beginning(self) -> None: ...
    def close(self) -> None: ...

    def assign(self, partitions: Iterable[TopicPartition]) -> None:
        self._positions = dict.fromkeys(partitions, 0)

    def assignment(self) -> set[TopicPartition]:
        return set(self._positions)

    def highwater(self, tp: TopicPartition) -> int:
        return len(self._sent.at(*tp))

    def position(self, tp: TopicPartition, timeout_ms: int = 0) -> int:
        return self._positions[tp]

    def poll(self, timeout_ms: int) -> dict[TopicPartition, list[SimpleNamespace]]:
        polled = {tp: self._sent.at(*tp)[position:] for tp, position in self._positions.items()}
        self._positions = {tp: self.highwater(tp) for tp in polled}
        return {tp: records for tp, records in polled.items() if records}


class Local(KafkaSettings):
    """The settings of a cluster in memory: one producer for all callers, and consumers that read its records."""

    def producer(self, *_: Any) -> Any:
        return self.__dict__.setdefault("sent", Sent(self))

    def consumer(self, *_: Any) -> Any:
        return Reader(self.producer())


def writer(data: Path, cluster: Local | None = None) -> tuple[WriterWorker, Sent]:
    worker = WriterWorker(cluster or Local(), data, now=lambda: NOW)
    return worker, begin(worker)


def begin(worker: WriterWorker) -> Sent:
    worker.start(SimpleNamespace(partitions_for_topic=lambda _: set(range(PARTITIONS))), IDS)
    take(worker)
    sent = worker._producer
    assert isinstance(sent, Sent)
    return sent


def take(worker: WriterWorker) -> None:
    worker.assigned([TopicPartition(topic, HOME) for topic in worker.topics])


def write(sent: Sent, *others: tuple[bytes | None, bytes | None]) -> None:
    """Somebody else writes to the changelog."""
    for key, value in others:
        sent.send(topics.MEMORY_CHANGELOG, value, key, HOME)
    sent.flush_or_raise()


def read(sent: Sent, since: int = 0) -> dict[TopicPartition, list[Any]]:
    """The changelog as its owner consumes it from the offset `since`."""
    place = TopicPartition(topics.MEMORY_CHANGELOG, HOME)
    return {place: sent.at(*place)[since:]}


def row(offset: int, text: str, **more: Any) -> dict[str, Any]:
    words = len(split(text))
    at = NOW + timedelta(hours=offset)
    return {
        "kind": "fact", "topic_id": IDS[topics.FACTS], "partition": HOME, "offset": offset, "namespace": "default",
        "text": text, "observed_at": at, "published_at": at, "encoder_id": "e", "base_loss": 4.5,
        "recall_loss": 0.5, "loss_delta": 4.0, "priors": [2.0 if w.term in ("was", "is", "of", "the") else 12.0
        for w in split(text)], "surprisals": [3.0] * words, "vectors": b"",
    } | more  # fmt: skip


def message(*rows: dict[str, Any]) -> bytes:
    return encode_batch(pa.RecordBatch.from_pylist(list(rows), schema=FACT_ENCODINGS))


def batch(
    *values: bytes, topic: str = topics.FACT_ENCODINGS, partition: int = HOME, start: int = 0
) -> dict[TopicPartition, list[Any]]:
    records = [
        SimpleNamespace(topic=topic, partition=partition, offset=i, key=b"default", value=value, headers=[])
        for i, value in enumerate(values, start)
    ]
    return {TopicPartition(topic, partition): records}


def facts() -> dict[TopicPartition, list[Any]]:
    return batch(*(message(row(i, text)) for i, text in enumerate(TEXTS)))


def decided(data: Path) -> list[Decision]:
    return [decision for _, rows in history.read(data, HOME) for decision in rows]


def agree(sent: Sent, data: Path) -> None:
    """The compacted changelog holds the memories of the history, and those only."""
    bank = load(data, HOME, WriterWorker(Local(), data)._bank_settings).bank
    told = {key: value for key, value in sent.compacted().items() if not key.endswith(b"/")}
    assert {decode(MemoryRecord, value, 2**23).memory_id for value in told.values()} == {
        memory.memory_id for memory in bank.memories("default")
    }
    position = decode(PositionRecord, sent.compacted()[b"default/"])
    assert position.positions == bank.positions("default")
