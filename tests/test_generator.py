"""The generator's logic with a model that is made up: what one request does, no other request feels."""

import errno
import json
import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from kafka import TopicPartition
from kafka.errors import KafkaTimeoutError

from pipeline.memory_lm import Generation, Job, MemoryLM, Retrieved
from schemas import topics
from schemas.changelog import changelog_key
from workers import generator
from workers.generator import GeneratorWorker, Table
from workers.kafka import KafkaSettings, partition_for
from workers.loop import Retry

REQUESTS = topics.GENERATION_REQUESTS


class Model:
    """Says its prompt back in two pieces. Some prompts do what a real model may do."""

    def __init__(self, stop: threading.Event) -> None:
        self.stop, self.batches = stop, list[list[str]]()

    def count(self) -> int:
        return 0

    def answer(self, jobs: Sequence[Job], on_token: Callable[[int, str], bool]) -> list[Generation]:
        self.batches.append([job.asked() for job in jobs])
        made = []
        for n, job in enumerate(jobs):
            prompt = job.asked()
            for piece in (prompt[:1], prompt[1:]):
                if prompt == "stop":
                    self.stop.set()
                on_token(n, piece)
            if prompt == "bad":
                raise LookupError("no such thing")
            used = [Retrieved("a" * 32, "default", "a text", None, 1.0, 0.9)] if job.use_memory else []
            made.append(Generation(prompt, "stop", used, 1, 2))
        return made


class Sent(list[tuple[str, bytes, Any]]):
    """In the place of the producer: what was sent, until it is flushed."""

    flushed = False
    settings = KafkaSettings()  # of which a dead letter asks its topic's name

    def send(self, topic: str, value: bytes, key: bytes | None = None, *more: Any, **named: Any) -> None:
        self.append((topic, key or b"", json.loads(value) if topic != topics.DEAD_LETTERS else value))

    def flush_or_raise(self) -> None:
        self.flushed = True

    def of(self, topic: str) -> list[tuple[bytes, Any]]:
        return [(key, value) for name, key, value in self if name == topic]


@pytest.fixture
def sent() -> Sent:
    return Sent()


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sent: Sent) -> GeneratorWorker:
    stop = threading.Event()
    monkeypatch.setattr(MemoryLM, "load", lambda *_: Model(stop))
    made = GeneratorWorker(KafkaSettings(), tmp_path, "default", "cpu", stop)
    made._producer, made._topic_id, made._partitions = sent, "id", 4  # type: ignore[assignment]
    table = Table(made._lm, None, 4)
    monkeypatch.setattr(table, "catch_up", lambda limit_s: True)
    made._table = table
    return made


def records(*bodies: dict[str, Any] | bytes, partition: int = 0) -> dict[Any, list[Any]]:
    made = [
        SimpleNamespace(
            topic=REQUESTS, partition=partition, offset=n, key=f"r{n}".encode(), headers=[],
            value=body if isinstance(body, bytes) else json.dumps(body).encode(), timestamp=int(time.time() * 1000),
        )
        for n, body in enumerate(bodies)
    ]  # fmt: skip
    return {TopicPartition(REQUESTS, partition): made}


def answers(sent: Sent) -> dict[str, str]:
    """The text, or the error's reason, by request_id; a delta is no answer."""
    found = [value for _, value in sent.of(topics.GENERATION_RESPONSES) if "delta" not in value]
    assert len({one["request_id"] for one in found}) == len(found), "answered twice"
    return {one["request_id"]: one["error"]["reason"] if one.get("error") else one["text"] for one in found}


def test_a_batch_is_answered_as_one_and_its_memories_are_told(worker: GeneratorWorker, sent: Sent) -> None:
    done = worker.process(records({"prompt": "one"}, {"prompt": "two", "use_memory": False}))
    assert answers(sent) == {"r0": "one", "r1": "two"}
    assert worker._lm.batches == [["one", "two"]]  # type: ignore[attr-defined]
    ((key, hits),) = sent.of(topics.MEMORY_HITS)
    assert key == b"default" and hits["request_id"] == "r0" and hits["hits"][0]["gate"] == 0.9
    assert done.offsets == {TopicPartition(REQUESTS, 0): 2} and sent.flushed
    assert len(list((worker._data / "generations").glob("*.parquet"))) == 1


def test_a_request_that_the_model_fails_on_fails_alone(worker: GeneratorWorker, sent: Sent) -> None:
    done = worker.process(
        records({"prompt": "one", "stream": True}, {"prompt": "bad"}, {"prompt": "two", "stream": True})
    )
    assert answers(sent) == {"r0": "one", "r1": "failed", "r2": "two"}
    # What was streamed before the failure comes again with the same indices, of which a client takes each once.
    deltas = [v for _, v in sent.of(topics.GENERATION_RESPONSES) if "delta" in v and v["request_id"] == "r0"]
    assert [(d["index"], d["delta"]) for d in deltas] == [(0, "o"), (1, "ne")] * 2
    assert done.offsets == {TopicPartition(REQUESTS, 0): 3}


def test_a_broker_that_fails_is_no_fault_of_a_request(worker: GeneratorWorker, sent: Sent) -> None:
    send, failures = sent.send, [KafkaTimeoutError("away")]

    def fail_once(*given: Any, **named: Any) -> None:
        if failures:
            raise failures.pop()
        send(*given, **named)

    sent.send = fail_once  # type: ignore[method-assign]
    with pytest.raises(KafkaTimeoutError):
        worker.process(records({"prompt": "one", "stream": True}))


def test_what_is_unanswered_at_a_stop_is_left_for_another(worker: GeneratorWorker, sent: Sent) -> None:
    done = worker.process(records({"prompt": "one"}, {"prompt": "stop"}, {"prompt": "two"}))
    assert answers(sent) == {"r0": "one"}
    assert done.offsets == {TopicPartition(REQUESTS, 0): 1}


def test_a_bad_request_is_kept_and_its_sender_told(worker: GeneratorWorker, sent: Sent) -> None:
    worker.process(records(b"{", {"prompt": "one", "colour": "red"}, {"prompt": "two"}))
    assert answers(sent) == {"r0": "invalid-json", "r1": "unknown-field", "r2": "two"}
    assert [key for key, _ in sent.of(topics.DEAD_LETTERS)] == [b"r0", b"r1"]


def test_a_deadline_that_has_passed_is_an_error(worker: GeneratorWorker, sent: Sent) -> None:
    worker.process(records({"prompt": "one", "deadline": "2020-01-01T00:00:00Z"}, {"prompt": "two"}))
    assert answers(sent) == {"r0": "deadline", "r1": "two"}


def test_a_batch_waits_once_for_a_memory_that_does_not_come(
    worker: GeneratorWorker, sent: Sent, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(1_000_000))
    monkeypatch.setattr(time, "monotonic", lambda: next(clock) / 10)
    wanted = {"prompt": "one", "after": {"default": {"id/0": 7}}}
    worker.process(records(*[wanted] * 6))
    assert set(answers(sent).values()) == {"behind"} and len(answers(sent)) == 6
    # Each look at the clock is 0.1 s here: six waits of WAIT_S would be six times as many.
    assert next(clock) < 2 * generator.WAIT_S * 10


def told(key: bytes | None, value: bytes | None, partition: int | None = None) -> Any:
    home = partition_for("default", 4) if partition is None else partition
    return SimpleNamespace(key=key, value=value, partition=home)


def test_a_clock_that_is_set_back_does_not_prolong_the_wait(
    worker: GeneratorWorker, sent: Sent, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, looks = time.time(), iter(range(1_000_000))
    monkeypatch.setattr(generator, "WAIT_S", 0.2)
    monkeypatch.setattr(time, "time", lambda: now if next(looks) == 0 else now - 86_400)
    worker.process(records({"prompt": "one", "after": {"default": {"id/0": 7}}}))
    assert answers(sent) == {"r0": "behind"}


def test_a_full_disk_is_tried_again(worker: GeneratorWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Retry, match=r"generations/.*No space left.*check the space"):
        worker.process(records({"prompt": "one"}))


def test_a_record_of_another_partition_neither_adds_nor_removes(worker: GeneratorWorker) -> None:
    """A tombstone there would take a memory away, for good: compaction keeps one of each partition."""
    assert worker._table is not None
    elsewhere = (partition_for("default", 4) + 1) % 4
    position = {"namespace": "default", "positions": {"id/0": 7}, "decided": []}
    worker._table.take(told(changelog_key("default"), json.dumps(position).encode(), elsewhere))
    assert not worker._table.positions
    removed: list[str] = []
    worker._table.lm.remove = lambda *what: removed.append(what[1])  # type: ignore[method-assign]
    worker._table.take(told(changelog_key("default", "a" * 32), None, elsewhere))
    worker._table.take(told(changelog_key("default", "b" * 32), None))
    assert removed == ["b" * 32]


def test_a_request_whose_memory_is_there_is_answered(worker: GeneratorWorker, sent: Sent) -> None:
    assert worker._table is not None
    position = {"namespace": "default", "positions": {"id/0": 7}, "decided": []}
    worker._table.take(told(changelog_key("default"), json.dumps(position).encode()))
    worker.process(records({"prompt": "one", "after": {"default": {"id/0": 7}}}))
    assert answers(sent) == {"r0": "one"}


@pytest.mark.parametrize(
    "key, value", [(b"\xff", b"{}"), (b"default/" + b"a" * 32, b"{"), (b"default/", b"7")]
)
def test_nothing_on_the_changelog_stops_the_replica(
    worker: GeneratorWorker, key: bytes, value: bytes
) -> None:
    assert worker._table is not None
    worker._table.take(told(key, value))
    assert worker._table.foreign == 1 and not worker._table.positions
