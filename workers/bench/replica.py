"""Speed of loading a changelog into a generator, compared with only reading the same bytes.

It uses made-up memories on the embedded broker and no model, so it measures the way from the topic into the
bank and its index.
"""

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from pipeline.bench.harness import Progress, in_turns, median_timing
from pipeline.bench.synthetic.facts import DIMENSIONS, made_up_stream
from pipeline.config import Settings
from pipeline.decide.decide import decide_fact
from pipeline.memory.bank import Bank
from pipeline.memory.codec import memory_to_record
from pipeline.memory_lm import MemoryLM
from schemas import topics
from schemas.changelog import changelog_key
from schemas.common import encode
from workers.generate.replica import Replica as LiveReplica
from workers.kafka import TopicPartition
from workers.kafka.admin import ensure_topics
from workers.kafka.config import KafkaSettings
from workers.kafka.offsets import caught_up
from workers.kafka.partitioner import partition_for
from workers.runtime import embedded_broker

REPEATS = 3


@dataclass(frozen=True, slots=True)
class Replica:
    """Medians. The ratios are shares of the speed of only reading."""

    memories: int
    megabytes: float
    memories_s: float  # loaded per second
    read_memories_s: float  # only read per second
    ratio: float
    least_ratio: float  # the least that is acceptable
    cpu_ratio: float  # by processor time, which says more on a busy machine


def measure(folder: Path, memories: int, seed: int, progress: Progress) -> Replica:
    """Reads the changelog, and loads it into a replica, in turns. `folder`: for the broker's log."""
    running = embedded_broker.start(embedded_broker.free_port(), folder / "broker.log")
    try:
        settings = KafkaSettings(running.bootstrap)
        ensure_topics(settings)
        size = _publish(settings, memories, seed, progress)
        read, loaded = map(
            median_timing,
            in_turns(
                REPEATS,
                lambda _: _read(settings, memories),
                lambda _: _load(settings, memories),
                after=lambda: progress("replicas loaded", 1, REPEATS),
            ),
        )
    finally:
        running.stop()
    return Replica(
        memories, size / 1e6, memories / loaded.wall, memories / read.wall, read.wall / loaded.wall, 0.5,
        read.cpu / loaded.cpu,
    )  # fmt: skip


def _publish(settings: KafkaSettings, memories: int, seed: int, progress: Progress) -> int:
    """Publishes the changelog records of this many memories. Returns their size in bytes."""
    bank, producer, size = Bank(Settings(capacity=memories)), settings.producer(), 0
    for fact in made_up_stream(int(memories * 1.3) + 10, seed):
        for decision in decide_fact(bank, fact, fact.observed_at):
            bank.apply(decision)
    for number, memory in enumerate(bank.memories("default")):
        key, value = changelog_key("default", memory.memory_id), encode(memory_to_record(memory))
        producer.send(topics.MEMORY_CHANGELOG, value, key, partition_for("default", settings.partitions))
        size += len(key) + len(value)
        if number % 1000 == 999:
            progress("memories published", 1000, memories)
    producer.flush_or_raise()
    producer.close()
    return size


def _consumer(settings: KafkaSettings) -> Any:
    """A consumer of the whole changelog, like a generator's."""
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


def _load(settings: KafkaSettings, memories: int) -> None:
    encoder: Any = SimpleNamespace(
        settings=Settings(), encoder_id="made-up", calibration=SimpleNamespace(mean=[0.0] * DIMENSIONS),
        backbone=None, contexts=None, weights=None,  # nothing is asked
    )  # fmt: skip
    replica = LiveReplica(MemoryLM(encoder), _consumer(settings), settings.partitions)
    while not replica.catch_up(10.0):
        pass
    replica.consumer.close()
    if replica.lm.count() != memories:
        raise ValueError(f"{replica.lm.count()} memories were loaded, and {memories} sent")
