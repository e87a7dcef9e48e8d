"""The generator's logic with a model that is made up: what one request does, no other request feels."""

import errno
import json
import os
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from kafka import TopicPartition
from kafka.errors import KafkaTimeoutError

from pipeline.memory_lm import Generation, Job, MemoryLM, Retrieved
from schemas import topics
from schemas.changelog import changelog_key
from workers.generate import worker as generator
from workers.generate.replica import Table
from workers.generate.worker import GeneratorWorker
from workers.kafka.config import KafkaSettings
from workers.kafka.partitioner import partition_for
from workers.runtime.signals import Stop
from workers.runtime.worker import Done, Retry

REQUESTS = topics.GENERATION_REQUESTS


class Saying:
    """In the place of a batch: each row says its prompt, a word at each step. Some prompts do what a real model may do."""

    open = True

    def __init__(self, model: "Model") -> None:
        self.model, self.rows = model, list[Any]()

    def join(self, rows: Sequence[Any]) -> list[Any]:
        self.model.joined.append([row.prompt for row in rows])
        self.rows += rows
        return []

    def step(self) -> list[Any]:
        self.model.together.append(len(self.rows))
        for row in self.rows:
            word = row.words.pop(0)
            if word == "stop":
                self.model.stop.set()
            if word == "bad":
                raise LookupError("no such thing")
            row.ended = not row.send(word) or not row.words
        ended, self.rows = [r for r in self.rows if r.ended], [r for r in self.rows if not r.ended]
        return ended


class Model:
    def __init__(self, stop: Stop) -> None:
        self.stop, self.joined, self.together = stop, list[list[str]](), list[int]()

    def count(self) -> int:
        return 0

    def batch(self) -> Saying:
        return Saying(self)

    def prepare(self, jobs: Sequence[Job]) -> list[tuple[Any, bool]]:
        if any(job.asked() == "unprepared" for job in jobs):
            raise LookupError("no such template")
        return [(Row(job.asked()), job.use_memory) for job in jobs]

    def made(self, row: Any, use_memory: bool) -> Generation:
        used = [Retrieved("a" * 32, "default", "a text", None, 1.0, 0.9)] if use_memory else []
        return Generation(row.prompt, "stop", used, 1, 2)


class Row:
    send: Callable[[str], bool]

    def __init__(self, prompt: str) -> None:
        self.prompt, self.words, self.ended = prompt, prompt.split(), False


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
    stop = Stop()
    monkeypatch.setattr(MemoryLM, "load", lambda *_: Model(stop))
    made = GeneratorWorker(KafkaSettings(), tmp_path, "default", "cpu", stop)
    made.load(alone=False)
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


def finish(worker: GeneratorWorker, done: Done | None = None) -> dict[Any, int]:
    """Turns of the loop until nothing is in hand; what was committed, `done` included."""
    committed = dict(done.offsets or {}) if done else {}
    for _ in range(1000):
        if not worker.unfinished:
            return committed
        committed |= worker.process({}).offsets or {}
    raise AssertionError("it never ends")


def at(offset: int, partition: int = 0) -> dict[Any, int]:
    return {TopicPartition(REQUESTS, partition): offset}


def deltas(sent: Sent, request_id: str) -> list[tuple[int, str]]:
    told = [value for _, value in sent.of(topics.GENERATION_RESPONSES) if "delta" in value]
    return [(one["index"], one["delta"]) for one in told if one["request_id"] == request_id]


def test_a_batch_is_answered_as_one_and_its_memories_are_told(worker: GeneratorWorker, sent: Sent) -> None:
    done = worker.process(records({"prompt": "one"}, {"prompt": "two", "use_memory": False}))
    assert answers(sent) == {"r0": "one", "r1": "two"}
    assert worker._lm.joined == [["one", "two"]]  # type: ignore[attr-defined]
    ((key, hits),) = sent.of(topics.MEMORY_HITS)
    assert key == b"default" and hits["request_id"] == "r0" and hits["hits"][0]["gate"] == 0.9
    assert done.offsets == at(2) and done.ahead and sent.flushed
    assert len(list((worker._data / "generations").glob("*.parquet"))) == 1


def test_a_short_request_does_not_wait_for_a_long_one(
    worker: GeneratorWorker, sent: Sent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generator, "SLICE_S", 0.0)
    long = " ".join("word" for _ in range(50))
    ((where, (one, *later)),) = records({"prompt": long}, {"prompt": "one"}, {"prompt": "two words"}).items()
    assert worker.process({where: [one]}).offsets == {} and worker.unfinished
    assert worker.process({where: later}).offsets == {}
    while "r2" not in answers(sent):
        worker.process({})
    assert set(answers(sent)) == {"r1", "r2"}, "it joined the long one, and left it behind"
    assert max(worker._lm.together) == 3  # type: ignore[attr-defined]
    assert finish(worker) == at(3) and answers(sent)["r0"] == long


def test_what_is_behind_an_unanswered_request_is_not_committed(
    worker: GeneratorWorker, sent: Sent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generator, "SLICE_S", 0.0)
    monkeypatch.setattr(generator, "SETTLE_S", -1.0)
    done = worker.process(records({"prompt": "a b c d e f"}, {"prompt": "one"}))
    assert answers(sent) == {"r1": "one"} and done.offsets == at(0)
    assert finish(worker) == at(2)


def test_no_more_than_a_batch_is_answered_at_a_time_and_reading_waits(
    worker: GeneratorWorker, sent: Sent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generator, "SLICE_S", 0.0)
    held: list[str] = []
    worker._consumer = SimpleNamespace(
        assignment=lambda: {"p"}, pause=lambda *_: held.append("pause"), paused=lambda: {"p"},
        resume=lambda *_: held.append("resume"),
    )  # fmt: skip
    count = 3 * generator.BATCH
    worker.process(records(*[{"prompt": f"{n} and more"} for n in range(count)]))
    assert held == ["pause"]
    finish(worker)
    assert "resume" in held and len(answers(sent)) == count
    assert max(worker._lm.together) == generator.BATCH  # type: ignore[attr-defined]


def test_a_request_that_the_model_fails_on_fails_alone(worker: GeneratorWorker, sent: Sent) -> None:
    asked = (
        {"prompt": "one more", "stream": True},
        {"prompt": "a bad one"},
        {"prompt": "two", "stream": True},
    )
    assert finish(worker, worker.process(records(*asked))) == at(3)
    assert answers(sent) == {"r0": "one more", "r1": "failed", "r2": "two"}
    # What was streamed before the failure comes again with the same indices, of which a client takes each once.
    assert deltas(sent, "r0") == [(0, "one"), (1, "more"), (0, "one"), (1, "more")]


def test_a_request_that_cannot_be_begun_fails_alone(worker: GeneratorWorker, sent: Sent) -> None:
    done = worker.process(records({"prompt": "one"}, {"prompt": "unprepared"}, {"prompt": "two"}))
    assert answers(sent) == {"r0": "one", "r1": "failed", "r2": "two"}
    assert finish(worker, done) == at(3)


def test_a_broker_that_fails_is_no_fault_of_a_request(worker: GeneratorWorker, sent: Sent) -> None:
    send, failures = sent.send, [KafkaTimeoutError("away")]

    def fail_once(*given: Any, **named: Any) -> None:
        if failures:
            raise failures.pop()
        send(*given, **named)

    sent.send = fail_once  # type: ignore[method-assign]
    asked = records({"prompt": "one more", "stream": True}, {"prompt": "two"})
    with pytest.raises(KafkaTimeoutError):
        worker.process(asked)
    # The loop reads the batch again; what is in hand already is not taken twice.
    assert finish(worker, worker.process(asked)) == at(2)
    assert answers(sent) == {"r0": "one more", "r1": "two"} and deltas(sent, "r0") == [
        (0, "one"),
        (1, "more"),
    ]


def test_what_was_answered_but_not_confirmed_is_answered_again(worker: GeneratorWorker, sent: Sent) -> None:
    flush, failures = sent.flush_or_raise, [KafkaTimeoutError("away")]

    def fail_once() -> None:
        if failures:
            raise failures.pop()
        flush()

    sent.flush_or_raise = fail_once  # type: ignore[method-assign]
    with pytest.raises(KafkaTimeoutError):
        worker.process(records({"prompt": "one"}))
    sent.clear()
    assert finish(worker) == at(1) and answers(sent) == {"r0": "one"}


def test_what_is_unanswered_at_a_stop_is_left_for_another(worker: GeneratorWorker, sent: Sent) -> None:
    done = worker.process(records({"prompt": "one"}, {"prompt": "stop here"}, {"prompt": "two words"}))
    assert answers(sent) == {"r0": "one"}
    assert done.offsets == at(1)


def test_a_partition_that_went_to_another_generator_is_left_to_it(
    worker: GeneratorWorker, sent: Sent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generator, "SLICE_S", 0.0)
    both = records({"prompt": "stays here"}) | records({"prompt": "goes away"}, partition=1)
    worker.process(both)
    worker.revoked(list(both))
    worker.assigned([TopicPartition(REQUESTS, 0)])
    again = worker.process(records({"prompt": "stays here"}))  # read again, from the committed offset
    assert finish(worker, again) == at(1)
    assert [text for _, text in sent.of(topics.GENERATION_RESPONSES)] and len(answers(sent)) == 1
    assert answers(sent) == {"r0": "stays here"}


def test_a_bad_request_is_kept_and_its_sender_told(worker: GeneratorWorker, sent: Sent) -> None:
    worker.process(records(b"{", {"prompt": "one", "colour": "red"}, {"prompt": "two"}))
    assert answers(sent) == {"r0": "invalid-json", "r1": "unknown-field", "r2": "two"}
    assert [key for key, _ in sent.of(topics.DEAD_LETTERS)] == [b"r0", b"r1"]


def test_a_deadline_that_has_passed_is_an_error(worker: GeneratorWorker, sent: Sent) -> None:
    worker.process(records({"prompt": "one", "deadline": "2020-01-01T00:00:00Z"}, {"prompt": "two"}))
    assert answers(sent) == {"r0": "deadline", "r1": "two"}


def test_a_deadline_that_passes_ends_an_answer(
    worker: GeneratorWorker, sent: Sent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generator, "SLICE_S", 0.0)
    soon = datetime.fromtimestamp(time.time() + 60, UTC).isoformat()
    worker.process(records({"prompt": "a b c d", "deadline": soon}, {"prompt": "e f g h"}))
    late = time.time() + 120
    monkeypatch.setattr(time, "time", lambda: late)
    finish(worker)
    assert answers(sent) == {"r0": "deadline", "r1": "e f g h"}


def test_requests_wait_together_for_a_memory_that_does_not_come_and_the_others_do_not(
    worker: GeneratorWorker, sent: Sent, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(1_000_000))
    monkeypatch.setattr(time, "monotonic", lambda: next(clock) / 10)
    wanted = {"prompt": "one", "after": {"default": {"id/0": 7}}}
    worker.process(records(*[wanted] * 6, {"prompt": "two"}))
    assert answers(sent) == {"r6": "two"}
    finish(worker)
    assert len(answers(sent)) == 7 and set(answers(sent).values()) == {"behind", "two"}
    # Each look at the clock is 0.1 s here: six waits of WAIT_S would be six times as many.
    assert next(clock) < 3 * generator.WAIT_S * 10


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
    end = time.monotonic() + 30
    while worker.unfinished and time.monotonic() < end:
        worker.process({})
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
