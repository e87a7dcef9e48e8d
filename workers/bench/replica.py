"""How long a generator takes over the memories of a changelog, beside reading the same bytes from the same broker.

Made-up memories on the embedded broker, and a memory without a model: what is measured is the way from the topic into the
bank and its index.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

from kafka import TopicPartition

from pipeline.bench.synthetic.facts import DIMENSIONS, made_up_stream
from pipeline.config import Settings
from pipeline.memory.bank import Bank
from pipeline.memory.codec import memory_to_record
from pipeline.memory_lm import MemoryLM
from schemas import topics
from schemas.changelog import changelog_key
from schemas.common import encode
from workers.generate.replica import Table
from workers.kafka.admin import ensure_topics
from workers.kafka.clients import KafkaSettings, caught_up, partition_for
from workers.runtime import embedded_broker as broker

REPEATS = 3
Shown = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Replica:
    memories: int
    megabytes: float
    memories_s: float  # taken over, median
    read_memories_s: float  # only read
    ratio: float
    least_ratio: float
    cpu_ratio: float  # the same by the processor's time: where others use the machine as well


def measure(folder: Path, memories: int, seed: int, shown: Shown) -> Replica:
    """`folder`: for the broker's log. Reads and takes over in turn, `REPEATS` times."""
    running = broker.start(broker.free_port(), folder / "broker.log")
    try:
        settings = KafkaSettings(running.bootstrap)
        ensure_topics(settings)
        size = _publish(settings, memories, seed, shown)
        read, taken = list[tuple[float, float]](), list[tuple[float, float]]()
        for _ in range(REPEATS):
            read.append(_timed(lambda: _read(settings, memories)))
            taken.append(_timed(lambda: _take(settings, memories)))
            shown("taken over", 1, REPEATS)
    finally:
        running.stop()
    (read_s, read_cpu), (taken_s, taken_cpu) = (
        map(median, zip(*times, strict=True)) for times in (read, taken)
    )
    return Replica(
        memories,
        size / 1e6,
        memories / taken_s,
        memories / read_s,
        read_s / taken_s,
        0.5,
        read_cpu / taken_cpu,
    )


def _publish(settings: KafkaSettings, memories: int, seed: int, shown: Shown) -> int:
    """Tells the changelog of so many memories; their bytes."""
    bank, producer, size = Bank(Settings(capacity=memories)), settings.producer(), 0
    for fact in made_up_stream(int(memories * 1.3) + 10, seed):
        for decision in bank.decide(fact, fact.observed_at):
            bank.apply(decision)
    for number, memory in enumerate(bank.memories("default")):
        key, value = changelog_key("default", memory.memory_id), encode(memory_to_record(memory))
        producer.send(topics.MEMORY_CHANGELOG, value, key, partition_for("default", settings.partitions))
        size += len(key) + len(value)
        if number % 1000 == 999:
            shown("memories published", 1000, memories)
    producer.flush_or_raise()
    producer.close()
    return size


def _consumer(settings: KafkaSettings) -> Any:
    """As a generator's."""
    consumer = settings.consumer()
    topic = settings.topic(topics.MEMORY_CHANGELOG)
    consumer.assign([TopicPartition(topic, p) for p in range(settings.partitions)])
    consumer.seek_to_beginning()
    return consumer


def _read(settings: KafkaSettings, memories: int) -> None:
    consumer, count = _consumer(settings), 0
    while not caught_up(consumer):
        count += sum(map(len, consumer.poll(timeout_ms=50).values()))
    consumer.close()
    if count != memories:
        raise ValueError(f"{count} records were read, and {memories} sent")


def _take(settings: KafkaSettings, memories: int) -> None:
    encoder: Any = SimpleNamespace(
        settings=Settings(), encoder_id="made-up", calibration=SimpleNamespace(mean=[0.0] * DIMENSIONS)
    )
    table = Table(MemoryLM(encoder), _consumer(settings), settings.partitions)
    while not table.catch_up(10.0):
        pass
    table.consumer.close()
    if table.lm.count() != memories:
        raise ValueError(f"{table.lm.count()} memories were taken over, and {memories} sent")


def _timed(call: Callable[[], object]) -> tuple[float, float]:
    began, cpu = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - began, time.process_time() - cpu
