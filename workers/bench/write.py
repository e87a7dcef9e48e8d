"""How many facts the writer decides a second, in a small namespace and in a large one, of the same partition and run.

The real writer on made-up encodings: it checks, decides, appends a history file and makes the changelog's records, which
nobody takes. No model and no broker, so what is measured is the writer's own work, with the disk's part in it.
"""

import gc
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

from kafka import TopicPartition

from pipeline.bench.synthetic.facts import made_up_stream
from pipeline.memory.codec import facts_to_batch
from pipeline.memory.events import NewFact
from schemas import topics
from schemas.encoding import encode_batch
from workers.kafka.clients import KafkaSettings
from workers.write.worker import WriterWorker

SMALL = 1_000
ROWS = 64  # of a message, as the encoder sends them
BATCH = 8  # messages of a poll
ROUNDS = 10
IDS = {topic.name: topic.name for topic in topics.TOPICS}
Shown = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Write:
    memories: int
    small_memories: int
    facts_s: float  # at `memories`, median over batches
    small_facts_s: float
    ratio: float  # of the two
    least_ratio: float
    least_small_facts_s: float
    cpu_facts_s: float  # the same by the processor's time: where others use the machine as well
    small_cpu_facts_s: float
    facts: int  # decided in all
    rounds: int


class _Nowhere(KafkaSettings):
    """A cluster that takes everything and keeps nothing."""

    def producer(self) -> Any:
        return SimpleNamespace(settings=self, send=lambda *_: None, flush_or_raise=list, close=lambda: None)

    def consumer(self, *_: Any) -> Any:
        nothing = SimpleNamespace(
            unsubscribe=lambda: None, seek_to_beginning=lambda: None, close=lambda: None
        )
        nothing.assign, nothing.assignment, nothing.position = (lambda _: None), set, lambda _: 0
        return nothing


def measure(data: Path, memories: int, seed: int, shown: Shown) -> Write:
    """Fills one namespace with `memories`, then decides in turn a batch of it and one of a fresh namespace that has
    `SMALL`. `data`: an empty folder. At the bank's capacity each new memory evicts one."""
    worker = WriterWorker(_Nowhere(), data)
    worker.start(SimpleNamespace(partitions_for_topic=lambda _: {0}), IDS)
    worker.assigned([TopicPartition(topic, 0) for topic in worker.topics])
    bank, offset = worker._held[0].bank, 0

    def decide(messages: Sequence[bytes], namespace: str) -> tuple[float, float]:
        nonlocal offset
        records = [
            SimpleNamespace(partition=0, offset=offset + n, key=namespace.encode(), value=value, headers=[])
            for n, value in enumerate(messages)
        ]
        offset += len(records)
        began, cpu = time.perf_counter(), time.process_time()
        worker.process({TopicPartition(topics.FACT_ENCODINGS, 0): records})
        return time.perf_counter() - began, time.process_time() - cpu

    facts = made_up_stream(int(memories * 1.3) + BATCH * ROWS * (ROUNDS + 2), seed, "large")
    large, at = _messages(facts), 0
    while bank.size("large") < memories:
        batch = [next(large) for _ in range(BATCH)]
        decide(batch, "large")
        shown("facts decided", bank.size("large") - at, memories)
        at = bank.size("large")
    taken: dict[str, list[tuple[float, float]]] = {"large": [], "small": []}
    count = BATCH * ROWS
    for number in range(ROUNDS):
        name = f"small-{number}"
        small = _messages(made_up_stream(SMALL * 2 + count, seed + 1 + number, name))
        while bank.size(name) < SMALL:
            decide([next(small)], name)
        gc.collect()
        for kind, stream, namespace in (("small", small, name), ("large", large, "large")):
            batch = [next(stream) for _ in range(BATCH)]
            taken[kind].append(decide(batch, namespace))
        shown("rounds", 1, ROUNDS)
    worker.close()
    (facts_s, cpu), (small_s, small_cpu) = (
        [count / median(times) for times in zip(*taken[kind], strict=True)] for kind in ("large", "small")
    )
    return Write(
        bank.size("large"), SMALL, facts_s, small_s, facts_s / small_s, 0.7, 3000.0, cpu, small_cpu, offset * ROWS,
        ROUNDS,
    )  # fmt: skip


def _messages(facts: Iterable[NewFact]) -> Iterator[bytes]:
    """The facts as the encoder sends them."""
    rest = iter(facts)
    while some := list(islice(rest, ROWS)):
        yield encode_batch(facts_to_batch(some, some[0].encoding.encoder_id))
