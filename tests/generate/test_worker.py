"""The generator with a fake model: no request affects another one."""

import errno
import json
import os
import time
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from kafka import TopicPartition
from kafka.errors import KafkaTimeoutError

from pipeline.memory_lm import Job
from schemas import topics
from schemas.changelog import changelog_key
from schemas.request import GenerationRequest
from tests.generate.fakes import REQUESTS, Sent, answers, at, deltas, finish, records
from workers.generate import worker as generator
from workers.generate.responses import job
from workers.generate.worker import GeneratorWorker
from workers.kafka.partitioner import partition_for
from workers.runtime.worker import Retry


def test_a_batch_is_answered_together_and_its_memories_are_reported(
    worker: GeneratorWorker, sent: Sent, tmp_path: Path
) -> None:
    done = worker.process(records({"prompt": "one"}, {"prompt": "two", "use_memory": False}))
    assert answers(sent) == {"r0": "one", "r1": "two"}
    assert worker._lm.submitted == [["one", "two"]]  # type: ignore[attr-defined]
    ((key, hits),) = sent.of(topics.MEMORY_HITS)
    assert key == b"default" and hits["request_id"] == "r0" and hits["hits"][0]["gate"] == 0.9
    assert done.offsets == at(2) and done.ahead and sent.flushed
    assert len(list((tmp_path / "generations").glob("*.parquet"))) == 1


def test_an_answer_names_the_memories_that_a_newer_one_replaced(worker: GeneratorWorker, sent: Sent) -> None:
    worker.process(records({"prompt": "one"}))
    ((_, answer),) = sent.of(topics.GENERATION_RESPONSES)
    assert [(m["gate"], m.get("doubted_by")) for m in answer["memories"]] == [(0.9, None), (0.0, "a" * 32)]
    assert [m.get("metadata") for m in answer["memories"]] == [{"page": 3}, None]
    ((_, hits),) = sent.of(topics.MEMORY_HITS)
    assert [hit["memory_id"] for hit in hits["hits"]] == ["a" * 32], "only what took part is a hit"


def test_every_field_of_a_request_reaches_its_job() -> None:
    body = {
        "prompt": "one", "namespace": ["a", "b"], "use_memory": False, "max_new_tokens": 7, "temperature": 0.5,
        "top_p": 0.25, "seed": 3, "stop": ["."], "tokens": True, "logprobs": 5, "stop_at_answer": False,
    }  # fmt: skip
    made = job(GenerationRequest.model_validate(body))
    assert made == Job("one", None, ["a", "b"], False, 7, 0.5, 0.25, 3, ["."], True, 5, False)
    assert job(GenerationRequest(prompt="one")).stop_at_answer


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


def test_offsets_after_an_unanswered_request_are_not_committed(
    worker: GeneratorWorker, sent: Sent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generator, "SLICE_S", 0.0)
    monkeypatch.setattr(generator, "SETTLE_S", -1.0)
    done = worker.process(records({"prompt": "a b c d e f"}, {"prompt": "one"}))
    assert answers(sent) == {"r1": "one"} and done.offsets == at(0)
    assert finish(worker) == at(2)


def test_a_full_batch_pauses_reading(
    worker: GeneratorWorker, sent: Sent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generator, "SLICE_S", 0.0)
    held: list[str] = []
    both, paused = {TopicPartition(REQUESTS, 0), TopicPartition(REQUESTS, 1)}, set[TopicPartition]()

    def pause(*now: TopicPartition) -> None:
        held.append("pause")
        paused.update(now)

    def resume(*now: TopicPartition) -> None:
        held.append("resume")
        paused.difference_update(now)

    worker._consumer = SimpleNamespace(
        assignment=lambda: both, paused=lambda: set(paused), pause=pause, resume=resume
    )
    count = 3 * generator.BATCH
    worker.process(records(*[{"prompt": f"{n} and more"} for n in range(count)]))
    assert held == ["pause"] and paused == both
    finish(worker)
    assert held == ["pause", "resume"] and not paused and len(answers(sent)) == count
    assert max(worker._lm.together) == generator.BATCH  # type: ignore[attr-defined]


def test_a_request_that_fails_in_the_engine_fails_alone(worker: GeneratorWorker, sent: Sent) -> None:
    requests = (
        {"prompt": "one more", "stream": True},
        {"prompt": "a bad one"},
        {"prompt": "two", "stream": True},
    )
    assert finish(worker, worker.process(records(*requests))) == at(3)
    assert answers(sent) == {"r0": "one more", "r1": "failed", "r2": "two"}
    assert deltas(sent, "r0") == [(0, "one"), (1, "more")]


def test_a_request_that_cannot_be_prepared_fails_alone(worker: GeneratorWorker, sent: Sent) -> None:
    done = worker.process(records({"prompt": "one"}, {"prompt": "unprepared"}, {"prompt": "two"}))
    assert answers(sent) == {"r0": "one", "r1": "failed", "r2": "two"}
    assert finish(worker, done) == at(3)


def test_a_broker_failure_restarts_requests_and_fails_none(worker: GeneratorWorker, sent: Sent) -> None:
    send, failures = sent.send_to, [KafkaTimeoutError("away")]

    def fail_once(*given: Any, **named: Any) -> None:
        if failures:
            raise failures.pop()
        send(*given, **named)

    sent.send_to = fail_once  # type: ignore[method-assign]
    batch = records({"prompt": "one more", "stream": True}, {"prompt": "two"})
    with pytest.raises(KafkaTimeoutError):
        worker.process(batch)
    # The loop reads the batch again; what is in hand already is not taken twice.
    assert finish(worker, worker.process(batch)) == at(2)
    assert answers(sent) == {"r0": "one more", "r1": "two"} and deltas(sent, "r0") == [
        (0, "one"),
        (1, "more"),
    ]


def test_an_unconfirmed_answer_is_sent_again(worker: GeneratorWorker, sent: Sent) -> None:
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


def test_a_stop_leaves_unanswered_requests_to_another_generator(worker: GeneratorWorker, sent: Sent) -> None:
    done = worker.process(records({"prompt": "one"}, {"prompt": "stop here"}, {"prompt": "two words"}))
    assert answers(sent) == {"r0": "one"}
    assert done.offsets == at(1)


def test_a_lost_partitions_requests_are_dropped(
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


def test_a_bad_request_is_a_dead_letter_and_gets_an_error(worker: GeneratorWorker, sent: Sent) -> None:
    worker.process(records(b"{", {"prompt": "one", "colour": "red"}, {"prompt": "two"}))
    assert answers(sent) == {"r0": "invalid-json", "r1": "unknown-field", "r2": "two"}
    assert [key for key, _ in sent.of(topics.DEAD_LETTERS)] == [b"r0", b"r1"]


def test_a_passed_deadline_is_an_error(worker: GeneratorWorker, sent: Sent) -> None:
    worker.process(records({"prompt": "one", "deadline": "2020-01-01T00:00:00Z"}, {"prompt": "two"}))
    assert answers(sent) == {"r0": "deadline", "r1": "two"}


def test_a_deadline_that_passes_during_generation_ends_the_answer(
    worker: GeneratorWorker, sent: Sent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generator, "SLICE_S", 0.0)
    soon = datetime.fromtimestamp(time.time() + 60, UTC).isoformat()
    worker.process(records({"prompt": "a b c d", "deadline": soon}, {"prompt": "e f g h"}))
    late = time.time() + 120
    monkeypatch.setattr(time, "time", lambda: late)
    finish(worker)
    assert answers(sent) == {"r0": "deadline", "r1": "e f g h"}


def test_requests_wait_for_their_memory_at_the_same_time_and_delay_no_others(
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


def test_a_full_disk_is_retried(worker: GeneratorWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Retry, match=r"generations/.*No space left.*check the space"):
        worker.process(records({"prompt": "one"}))


def test_a_request_whose_memory_is_there_is_answered(worker: GeneratorWorker, sent: Sent) -> None:
    assert worker._replica is not None
    position = {"namespace": "default", "positions": {"id/0": 7}, "decided": []}
    worker._replica.apply(
        SimpleNamespace(
            key=changelog_key("default"),
            value=json.dumps(position).encode(),
            partition=partition_for("default", 4),
        )
    )
    worker.process(records({"prompt": "one", "after": {"default": {"id/0": 7}}}))
    assert answers(sent) == {"r0": "one"}
