"""Speed of the writer in a small namespace and in a large one of the same partition.

The real writer gets made-up encodings: it checks, decides, appends to the history and makes the changelog's
records, which are dropped. Without a model and a broker, this is the writer's own work, with the disk's.
"""

import gc
import secrets
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from pipeline.bench.harness import Progress, Timing, median_timing, timed
from pipeline.bench.synthetic.facts import made_up_stream
from pipeline.history import log
from pipeline.memory.codec import facts_to_batch
from pipeline.memory.events import Decision, NewFact
from pipeline.store.bucket import Bucket
from pipeline.store.opening import store_at
from pipeline.store.place import folder_of
from pipeline.store.store import Store
from schemas import topics
from schemas.encoding import encode_batch
from workers.kafka import TopicPartition
from workers.kafka.config import KafkaSettings
from workers.write.worker import WriterWorker

SMALL = 1_000
"""Memories of the small namespace."""
ROWS = 64
"""Facts per message, as the encoder sends them."""
BATCH = 8
"""Messages per poll."""
ROUNDS = 10
APPENDS = 20
"""Appends of one batch's decisions, alone."""
TOPIC_IDS = {topic.name: topic.name for topic in topics.TOPICS}


@dataclass(frozen=True, slots=True)
class Write:
    """Facts decided per second, and the least acceptable values."""

    memories: int
    small_memories: int
    facts_s: float  # at `memories`, median over batches
    small_facts_s: float
    ratio: float  # of the two
    least_ratio: float
    least_small_facts_s: float
    cpu_facts_s: float  # by processor time, which says more on a busy machine
    small_cpu_facts_s: float
    facts: int  # decided in all
    rounds: int


def measure(data: Path, memories: int, seed: int, progress: Progress) -> Write:
    """Fills a namespace with `memories`; each round then times a batch of it and one of a small namespace.

    `data`: an empty folder. At the bank's capacity each new memory evicts one.
    """
    partition, count = _Partition(data), BATCH * ROWS
    large = _messages(made_up_stream(int(memories * 1.3) + count * (ROUNDS + 2), seed, "large"))
    size = 0
    while size < memories:
        partition.decide(list(islice(large, BATCH)), "large")
        progress("facts decided", partition.size("large") - size, memories)
        size = partition.size("large")
    large_times, small_times = list[Timing](), list[Timing]()
    for number in range(ROUNDS):
        name = f"small-{number}"
        small = _messages(made_up_stream(SMALL * 2 + count, seed + 1 + number, name))
        while partition.size(name) < SMALL:
            partition.decide([next(small)], name)
        gc.collect()
        small_times.append(partition.decide(list(islice(small, BATCH)), name))
        large_times.append(partition.decide(list(islice(large, BATCH)), "large"))
        progress("rounds", 1, ROUNDS)
    partition.worker.close()
    large_median, small_median = median_timing(large_times), median_timing(small_times)
    facts_s, small_facts_s = count / large_median.wall, count / small_median.wall
    return Write(
        partition.size("large"), SMALL, facts_s, small_facts_s, facts_s / small_facts_s, 0.7, 3000.0,
        count / large_median.cpu, count / small_median.cpu, partition.offset * ROWS, ROUNDS,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Stores:
    """The writer's figures in a folder and on a store."""

    folder: Write
    store: Write
    share: float  # of the folder's speed in a small namespace
    folder_append_ms: float  # of one version, durably; median
    store_append_ms: float


def measure_stores(folder: Path, url: str, memories: int, seed: int, progress: Progress) -> Stores:
    """`measure` in a folder, then in a prefix of its own on a store, whose objects are removed in the end."""
    url = f"{url.rstrip('/')}/bench-{secrets.token_hex(8)}"
    copies = folder_of(url)
    bucket = Bucket.open(url)
    try:
        local, remote = (measure(data, memories, seed, progress) for data in (folder, copies))
        *_, (_, decisions) = log.read(folder, 0)
        appends = [_append_ms(store_at(data), decisions) for data in (folder, copies)]
    finally:
        bucket.delete(found.key for found in bucket.objects(""))
        shutil.rmtree(copies)
    return Stores(local, remote, remote.small_facts_s / local.small_facts_s, *appends)


def _append_ms(store: Store, decisions: Sequence[Decision]) -> float:
    """Median time of appending a batch's decisions, as versions of another partition."""
    store.take(1)
    return 1000 * median_timing([timed(partial(store.append, 1, n, decisions)) for n in range(APPENDS)]).wall


class _Partition:
    """A writer that owns one partition of a cluster without brokers."""

    def __init__(self, data: Path) -> None:
        self.worker, self.offset = WriterWorker(_NoCluster(), data), 0
        self.worker.start(SimpleNamespace(partitions_for_topic=lambda _: {0}), TOPIC_IDS)
        self.worker.assigned([TopicPartition(topic, 0) for topic in self.worker.topics])
        self._bank = self.worker._held[0].bank

    def size(self, namespace: str) -> int:
        return self._bank.size(namespace)

    def decide(self, messages: Sequence[bytes], namespace: str) -> Timing:
        """The time that the writer takes for these messages, as the next ones of its topic."""
        records = [
            SimpleNamespace(
                partition=0, offset=self.offset + n, key=namespace.encode(), value=value, headers=[]
            )
            for n, value in enumerate(messages)
        ]
        self.offset += len(records)
        return timed(lambda: self.worker.process({TopicPartition(topics.FACT_ENCODINGS, 0): records}))


class _NoCluster(KafkaSettings):
    """Settings whose producers drop every record, and whose consumers have none."""

    def producer(self, *_: Any) -> Any:
        return SimpleNamespace(settings=self, send=lambda *_: None, flush_or_raise=list, close=lambda: None)

    def consumer(self, *_: Any) -> Any:
        consumer = SimpleNamespace(
            unsubscribe=lambda: None, seek_to_beginning=lambda: None, close=lambda: None
        )
        consumer.assign, consumer.assignment, consumer.position = (lambda _: None), set, lambda _: 0
        return consumer


def _messages(facts: Iterable[NewFact]) -> Iterator[bytes]:
    """The facts as the encoder sends them."""
    rest = iter(facts)
    while some := list(islice(rest, ROWS)):
        yield encode_batch(facts_to_batch(some, some[0].encoding.encoder_id))
