"""A worker that records the calls of the loop, and a loop on a thread of the test's process."""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from kafka import KafkaConsumer, TopicPartition

from schemas.topics import FACTS
from workers.kafka.admin import ensure_topics
from workers.kafka.config import KafkaSettings
from workers.kafka.producer import Producer
from workers.runtime import loop
from workers.runtime.signals import Stop
from workers.runtime.worker import Done, Worker


class Recorder(Worker):
    """A worker that records its calls, and processes a batch as the test says."""

    name = "recorder"
    topics: Sequence[str] = (FACTS,)

    def __init__(self, process: Callable[["Recorder", list[Any]], Done | None] | None = None) -> None:
        self.calls: list[str] = []
        self.values: list[bytes] = []
        self.partitions: set[int] = set()
        self.idles = 0
        self._process = process

    def start(self, consumer: KafkaConsumer, topic_ids: dict[str, str]) -> None:
        self.consumer, self.topic_ids = consumer, topic_ids

    def assigned(self, partitions: list[TopicPartition]) -> None:
        self.calls.append("assigned")
        self.partitions |= {tp.partition for tp in partitions}

    def revoked(self, partitions: list[TopicPartition]) -> None:
        self.calls.append("revoked")
        self.partitions -= {tp.partition for tp in partitions}

    def process(self, records: dict[TopicPartition, list[Any]]) -> Done:
        self.calls.append("process")
        batch = [record for polled in records.values() for record in polled]
        done = self._process(self, batch) if self._process else None
        self.values += [record.value for record in batch]
        return done or Done({"seen": len(batch)})

    def idle(self) -> None:
        self.idles += 1

    def ready(self) -> dict[str, str | int]:
        return {"memories": 3}

    def close(self) -> None:
        self.calls.append("closed")


class Running:
    """A loop on a thread of the test's process."""

    def __init__(self, worker: Worker, settings: KafkaSettings, data: Path, max_records: int = 500) -> None:
        self.stop, self.code = Stop(), -1
        self.thread = threading.Thread(target=self._run, args=(worker, settings, data, max_records))
        self.thread.start()

    def _run(self, worker: Worker, settings: KafkaSettings, data: Path, max_records: int) -> None:
        self.code = loop.run(
            worker,
            settings,
            data,
            self.stop,
            poll_ms=100,
            max_records=max_records,
            sleep=lambda seconds: None,
        )

    def end(self) -> int:
        self.stop.set()
        return self.join()

    def join(self) -> int:
        self.thread.join(60)
        assert not self.thread.is_alive()
        return self.code


def publish(settings: KafkaSettings, *values: bytes) -> None:
    ensure_topics(settings)
    producer: Producer = settings.producer()
    for value in values:
        producer.send(FACTS, value, partition=0)
    producer.flush_or_raise()
    producer.close()


def committed(settings: KafkaSettings, worker: Recorder, partition: int = 0) -> int | None:
    admin = settings.admin()
    tp = TopicPartition(settings.topic(FACTS), partition)
    group = settings.group(worker.name)
    found = admin.list_group_offsets({group: [tp]}).get(group, {}).get(tp)
    admin.close()
    return None if found is None or found.offset < 0 else int(found.offset)
