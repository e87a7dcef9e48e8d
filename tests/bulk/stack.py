"""A stack in this process: an encoder and a writer on a cluster in memory, whose clock stands still."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
from kafka import TopicPartition

from pipeline.bench.synthetic.texts import made_up_facts
from pipeline.history import layout
from pipeline.history import log as history
from pipeline.memory import bank
from pipeline.memory.events import Decision
from schemas import topics
from tests.write.local_writer import IDS, PARTITIONS, Local, Sent
from workers.bulk import load as bulk
from workers.encode.worker import EncoderWorker
from workers.kafka.partitioner import partition_for
from workers.write.worker import WriterWorker

AT = datetime(2026, 3, 1, 12, tzinfo=UTC)


def lines_of_facts(count: int, namespaces: int = 3) -> list[bytes]:
    """Invented facts of several namespaces: most are new, some have a key that changes, some are said again."""
    texts = made_up_facts(count, 0)
    facts: list[dict[str, Any]] = []
    for n, text in enumerate(texts):
        said_again = n > 2 * namespaces and n % 10 == 0
        fact = {"text": texts[n - 2 * namespaces] if said_again else text, "namespace": f"n{n % namespaces}"}
        facts.append(fact | {"min_loss_delta": 0} | ({"key": f"k{n % 17}"} if n % 3 == 0 else {}))
    return [orjson.dumps(fact) for fact in facts]


class Stack:
    """Writers of all partitions, and what they decided, in `data`."""

    def __init__(self, data: Path, encoder: Any = None) -> None:
        self.data, self._encoder = data, encoder
        self.sent: Sent = (cluster := Local()).producer()
        self._consumer = SimpleNamespace(partitions_for_topic=lambda _: set(range(PARTITIONS)))
        self._cluster, self._read = cluster, 0
        self._writer = WriterWorker(cluster, data, now=lambda: AT)
        self._writer.start(self._consumer, IDS)
        self._writer.assigned(
            [TopicPartition(name, number) for name in self._writer.topics for number in range(PARTITIONS)]
        )

    def publish(self, lines: Sequence[bytes]) -> None:
        """The facts take the way of the stream, all at the same time."""
        worker = EncoderWorker(self._cluster, "model")
        worker._encoder = self._encoder
        worker.start(self._consumer, {topics.FACTS: IDS[topics.FACTS]})
        by_partition: dict[Any, list[Any]] = {}
        for line in lines:
            number = partition_for(orjson.loads(line).get("namespace", "default"), PARTITIONS)
            own = by_partition.setdefault(TopicPartition(topics.FACTS, number), [])
            own.append(SimpleNamespace(
                topic=topics.FACTS, partition=number, offset=len(own), key=None, value=line, headers=[],
                timestamp=int(AT.timestamp() * 1000),
            ))  # fmt: skip
        while by_partition:
            done = worker.process(by_partition)
            if done.offsets is None:
                break
            by_partition = {
                tp: rest
                for tp, records in by_partition.items()
                if (rest := [r for r in records if r.offset >= done.offsets.get(tp, 0)])
            }
        self.decide()

    def decide(self) -> None:
        """The writers decide what was sent since."""
        for record in self.sent.records[self._read :]:
            if record.topic == topics.FACT_ENCODINGS:
                self._writer.process({TopicPartition(record.topic, record.partition): [record]})
        self._read = len(self.sent.records)

    def load(self, out: Path, windows: int | None = None, flushes: int | None = None) -> bulk.Loaded:
        """Loads a job. The load is killed after so many windows, or after so many flushes."""
        left = [windows, flushes]

        def goes_on(which: int) -> None:
            if left[which] == 0:
                raise Killed
            left[which] = None if (now := left[which]) is None else now - 1

        def wait(ends: object, stop: object) -> None:
            goes_on(0)
            self.decide()

        def flush() -> Any:
            goes_on(1)
            return Sent.flush_or_raise(producer)

        producer = Sent(self._cluster)
        producer.records, producer.flush_or_raise = self.sent.records, flush  # type: ignore[method-assign]

        @contextmanager
        def connected(_: object) -> Iterator[Any]:
            yield producer, PARTITIONS, SimpleNamespace(wait=wait)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(bulk, "_connected", connected)
            return bulk.load(self._cluster, out)

    def decisions(self) -> list[Decision]:
        return [
            decision
            for number in layout.partitions(self.data)
            for _, rows in history.read(self.data, number)
            for decision in rows
        ]

    def digest(self) -> str:
        numbers = layout.partitions(self.data)
        return bank.digest(
            bank.fold(d for _, rows in history.read(self.data, number) for d in rows) for number in numbers
        )


class Killed(Exception):
    """The process would have ended here."""
