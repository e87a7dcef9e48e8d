"""A fake model, engine and producer for the generator's tests, and helpers that read what was sent."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
from kafka import TopicPartition
from numpy.typing import NDArray

from pipeline.memory_lm import Generation, Job, Retrieved
from schemas import topics
from workers.generate.worker import GeneratorWorker
from workers.kafka.config import KafkaSettings
from workers.runtime.signals import Stop
from workers.runtime.worker import Done

REQUESTS = topics.GENERATION_REQUESTS


@dataclass(eq=False)
class FakeRow:
    job: Job
    words: list[str]
    error: Exception | None = None


class FakeEngine:
    """Generates the words of each prompt, one a step. Some words trigger failures of a real model."""

    open = True

    def __init__(self, model: "FakeModel") -> None:
        self.model, self.rows = model, list[FakeRow]()

    def submit(self, jobs: Sequence[Job]) -> list[FakeRow]:
        self.model.submitted.append([job.query() for job in jobs])
        rows = [FakeRow(job, job.query().split()) for job in jobs]
        for row in rows:
            if row.words == ["unprepared"]:
                row.error = LookupError("no such template")
        self.rows += [row for row in rows if not row.error]
        return rows

    def cancel(self, row: FakeRow) -> None:
        self.rows = [other for other in self.rows if other is not row]

    def step(self) -> list[Any]:
        self.model.together.append(len(self.rows))
        return [self.next_word(row) for row in list(self.rows)]

    def next_word(self, row: FakeRow) -> tuple[FakeRow, str, bool]:
        word = row.words.pop(0)
        if word == "stop":
            self.model.stop.set()
        if word == "bad":
            row.error = LookupError("no such thing")
        finished = bool(row.error or not row.words)
        if finished:
            self.cancel(row)
        return row, "" if row.error else word, finished


class FakeModel:
    encoder = SimpleNamespace(backbone=SimpleNamespace(batch_rows=None))  # no GPU has room for more

    def __init__(self, stop: Stop) -> None:
        self.stop, self.submitted, self.together = stop, list[list[str]](), list[int]()

    def count(self) -> int:
        return 0

    def token_count(self, texts: Sequence[str]) -> int:
        return sum(len(text.split()) for text in texts)

    def retrieve(self, texts: Sequence[str], namespaces: Sequence[str], k: int) -> list[list[Retrieved]]:
        """k memories of the first namespace for each text, the first of them with its gate open."""
        if texts == ["unprepared"]:
            raise LookupError("no such thing")
        made = [
            Retrieved(f"{n:032x}", namespaces[0], f"{texts[0]} {n}", None, 1.0 / (n + 1), 0.0 if n else 0.8)
            for n in range(k)
        ]
        return [made for _ in texts]

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return np.array([[len(text), 1.0] for text in texts], np.float32)

    def engine(self) -> FakeEngine:
        return FakeEngine(self)

    def generation(self, row: FakeRow) -> Generation:
        found = [
            Retrieved("a" * 32, "default", "a text", None, 1.0, 0.9, metadata='{"page":3}'),
            Retrieved("b" * 32, "default", "an older text", None, 1.0, 0.0, "a" * 32),
        ]
        used = found if row.job.use_memory else []
        return Generation(row.job.query(), "stop", used, 1, 2)


class Sent(list[tuple[str, bytes, Any]]):
    """A producer that keeps sent records apart until they are flushed."""

    flushed = False
    settings = KafkaSettings()  # a dead letter names its topic by them

    def __init__(self) -> None:
        self.places: list[tuple[int | None, dict[str, bytes]]] = []
        """Of each record: its partition and its headers."""
        self.times: list[int] = []
        """Of the records that were given one."""

    def send(
        self,
        topic: str,
        value: bytes,
        key: bytes | None = None,
        partition: int | None = None,
        headers: Any = (),
        timestamp_ms: int | None = None,
    ) -> None:
        self.append((topic, key or b"", json.loads(value) if topic != topics.DEAD_LETTERS else value))
        self.places.append((partition, dict(headers)))
        if timestamp_ms is not None:
            self.times.append(timestamp_ms)

    send_to = send

    def flush_or_raise(self) -> None:
        self.flushed = True

    def of(self, topic: str) -> list[tuple[bytes, Any]]:
        return [(key, value) for name, key, value in self if name == topic]


def records(
    *bodies: dict[str, Any] | bytes, partition: int = 0, headers: Any = (), keys: Any = None
) -> dict[Any, list[Any]]:
    found = [
        SimpleNamespace(
            topic=REQUESTS, partition=partition, offset=n, key=f"r{n}".encode() if keys is None else keys[n],
            headers=list(headers),
            value=body if isinstance(body, bytes) else json.dumps(body).encode(), timestamp=int(time.time() * 1000),
        )
        for n, body in enumerate(bodies)
    ]  # fmt: skip
    return {TopicPartition(REQUESTS, partition): found}


def answers(sent: Sent) -> dict[str, str]:
    """The text, or the error's reason, by request_id; a delta is no answer."""
    found = [value for _, value in sent.of(topics.GENERATION_RESPONSES) if "delta" not in value]
    assert len({one["request_id"] for one in found}) == len(found), "answered twice"
    return {one["request_id"]: one["error"]["reason"] if one.get("error") else one["text"] for one in found}


def finish(worker: GeneratorWorker, done: Done | None = None) -> dict[Any, int]:
    """Turns the loop until no request is in flight. Returns the committed offsets, with those of `done`."""
    committed = dict(done.offsets or {}) if done else {}
    for _ in range(1000):
        if not worker.unfinished:
            return committed
        committed |= worker.process({}).offsets or {}
    raise AssertionError("it never ends")


def at(offset: int, partition: int = 0) -> dict[Any, int]:
    return {TopicPartition(REQUESTS, partition): offset}


def deltas(sent: Sent, request_id: str) -> list[tuple[int, str]]:
    found = [value for _, value in sent.of(topics.GENERATION_RESPONSES) if "delta" in value]
    return [(one["index"], one["delta"]) for one in found if one["request_id"] == request_id]
