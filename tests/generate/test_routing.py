"""Partitioned replicas with a fake model: where a request goes, and what waits for its memories."""

import time
from types import SimpleNamespace
from typing import Any

import pytest
from kafka import TopicPartition

from schemas import topics
from tests.generate.fakes import REQUESTS, Sent, answers, at, finish, records
from workers.generate import worker as generator
from workers.generate.routing import FORWARDED
from workers.generate.worker import GeneratorWorker
from workers.kafka.config import KafkaSettings
from workers.kafka.consumer import MAX_HEADERS
from workers.kafka.errors import RecordTooLarge
from workers.kafka.partitioner import partition_for

HOME = partition_for("default", 4)
AWAY = (HOME + 1) % 4
NEAR = next(name for name in map(str, range(99)) if partition_for(name, 4) == HOME)
FAR = next(name for name in map(str, range(99)) if partition_for(name, 4) == AWAY)


@pytest.fixture
def partitioned(worker: GeneratorWorker) -> GeneratorWorker:
    worker._settings = KafkaSettings(replica="partitioned")
    return worker


def forwarded(sent: Sent) -> list[tuple[bytes, Any, int | None, dict[str, bytes]]]:
    return [
        (key, value, *place)
        for (topic, key, value), place in zip(sent, sent.places, strict=True)
        if topic == topics.GENERATION_REQUESTS
    ]


def test_a_request_elsewhere_is_sent_on_to_its_partition(partitioned: GeneratorWorker, sent: Sent) -> None:
    batch = records({"prompt": "one"}, partition=AWAY, headers=[("mine", b"1"), ("traceparent", b"00")])
    done = partitioned.process(batch)
    headers = {"mine": b"1", "traceparent": b"00", FORWARDED: f"{AWAY}:0".encode()}
    assert forwarded(sent) == [(b"r0", {"prompt": "one"}, HOME, headers)]
    assert sent.times == [batch[TopicPartition(REQUESTS, AWAY)][0].timestamp], "it queues since then"
    assert done.offsets == at(1, AWAY) and sent.flushed and not answers(sent)


def test_a_request_at_home_is_answered_there(partitioned: GeneratorWorker, sent: Sent) -> None:
    partitioned.process(
        records({"prompt": "one"}, {"prompt": "two", "namespace": ["default", NEAR]}, partition=HOME)
    )
    assert answers(sent) == {"r0": "one", "r1": "two"} and not forwarded(sent)


def test_a_request_that_was_sent_on_does_not_go_round(partitioned: GeneratorWorker, sent: Sent) -> None:
    partitioned.process(records({"prompt": "one"}, partition=AWAY, headers=[(FORWARDED, b"2:7")]))
    assert answers(sent) == {"r0": "wrong-partition"} and not forwarded(sent)
    assert [key for key, _ in sent.of(topics.DEAD_LETTERS)] == [b"r0"]
    sent.clear()
    partitioned.process(records({"prompt": "two"}, partition=HOME, headers=[(FORWARDED, b"2:7")]))
    assert answers(sent) == {"r0": "two"}
    assert FORWARDED not in sent.places[-1][1], "the header is not part of the answer"


def test_headers_that_would_hide_the_mark_are_not_sent_on(partitioned: GeneratorWorker, sent: Sent) -> None:
    """A consumer reads only the first of them, so that the request would go round."""
    partitioned.process(records({"prompt": "one"}, partition=AWAY, headers=[("x", b"")] * MAX_HEADERS))
    assert answers(sent) == {"r0": "wrong-partition"}


def test_a_request_that_does_not_fit_is_refused(
    partitioned: GeneratorWorker, sent: Sent, monkeypatch: pytest.MonkeyPatch
) -> None:
    send = sent.send

    def too_large(topic: str, *given: Any, **named: Any) -> None:
        if topic == topics.GENERATION_REQUESTS:
            raise RecordTooLarge("a record of 9 MB does not fit")
        send(topic, *given, **named)

    monkeypatch.setattr(sent, "send", too_large)
    partitioned.process(records({"prompt": "one"}, partition=AWAY))
    assert answers(sent) == {"r0": "too-large"}


def test_a_request_without_a_key_keeps_its_id(partitioned: GeneratorWorker, sent: Sent) -> None:
    """Sent on twice after a failure, it is still one request."""
    batch = records({"prompt": "one"}, partition=AWAY, keys=[None])
    partitioned.process(batch)
    ((key, *_),) = forwarded(sent)
    assert key == f"{REQUESTS}:{AWAY}:0:{batch[TopicPartition(REQUESTS, AWAY)][0].timestamp}".encode()


def test_namespaces_of_several_partitions_are_refused(partitioned: GeneratorWorker, sent: Sent) -> None:
    apart = {"prompt": "one", "namespace": ["default", FAR]}
    partitioned.process(records(apart, apart | {"task": "retrieve"}, partition=HOME))
    assert answers(sent) == {"r0": "namespaces-apart", "r1": "namespaces-apart"} and not forwarded(sent)
    ((_, first), _) = sent.of(topics.GENERATION_RESPONSES)
    assert f"default, {FAR}" in first["error"]["message"]


def test_what_needs_no_memory_is_answered_anywhere(partitioned: GeneratorWorker, sent: Sent) -> None:
    apart = {"prompt": "one", "namespace": ["default", FAR], "after": {"default": {"id/0": 7}}}
    partitioned.process(records(apart | {"use_memory": False}, apart | {"task": "embed"}, partition=AWAY))
    assert answers(sent) == {"r0": "one", "r1": ""} and not forwarded(sent)


def test_positions_of_other_namespaces_are_not_waited_for(partitioned: GeneratorWorker, sent: Sent) -> None:
    partitioned.process(records({"prompt": "one", "after": {FAR: {"id/0": 7}}}, partition=HOME))
    assert answers(sent) == {"r0": "one"}


def test_a_full_replica_answers_whatever_it_reads(worker: GeneratorWorker, sent: Sent) -> None:
    worker.process(records({"prompt": "one", "namespace": ["default", FAR]}, partition=AWAY))
    assert answers(sent) == {"r0": "one"}


def test_a_partition_that_loads_keeps_no_other_waiting(
    partitioned: GeneratorWorker, sent: Sent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generator, "WAIT_S", 0.05)
    consumer = FakeConsumer(HOME, AWAY)
    partitioned._consumer, replica = consumer, partitioned._replica
    assert replica is not None
    replica.loading.add(AWAY)
    many = records(*[{"prompt": f"n{n}", "namespace": FAR} for n in range(generator.BATCH)], partition=AWAY)
    for record in many[TopicPartition(REQUESTS, AWAY)]:
        record.key = b"far-" + record.key
    partitioned.process(many | records({"prompt": "one"}, partition=HOME))
    assert answers(sent) == {"r0": "one"}
    assert consumer.paused() == {TopicPartition(REQUESTS, AWAY)}, "a full batch of the other pauses nobody"
    assert partitioned.loading and partitioned.unfinished
    time.sleep(0.1)  # longer than a request waits for facts
    partitioned.process({})
    assert len(answers(sent)) == 1
    replica.loading.clear()
    finish(partitioned)
    assert len(answers(sent)) == 1 + generator.BATCH and answers(sent)["far-r3"] == "n3"
    assert not consumer.paused() and not partitioned.loading


def test_assigned_partitions_are_followed_and_paused(
    partitioned: GeneratorWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    followed: list[list[int]] = []
    replica = partitioned._replica
    assert replica is not None

    def follow(numbers: list[int]) -> None:
        followed.append(list(numbers))
        replica.loading = set(numbers)

    monkeypatch.setattr(replica, "follow", follow)
    partitioned._consumer = FakeConsumer(1, 2)
    partitioned.assigned([TopicPartition(REQUESTS, 1), TopicPartition(REQUESTS, 2)])
    assert partitioned._consumer.paused() == partitioned._consumer.assignment()
    replica.loading = {2}
    partitioned.idle()
    assert partitioned._consumer.paused() == {TopicPartition(REQUESTS, 2)}
    partitioned.assigned([])
    assert followed == [[1, 2], []], "one generator too many holds nothing"


class FakeConsumer(SimpleNamespace):
    def __init__(self, *numbers: int) -> None:
        self.owned, self.held = {TopicPartition(REQUESTS, n) for n in numbers}, set[TopicPartition]()

    def assignment(self) -> set[TopicPartition]:
        return set(self.owned)

    def paused(self) -> set[TopicPartition]:
        return set(self.held)

    def pause(self, *partitions: TopicPartition) -> None:
        self.held |= set(partitions)

    def resume(self, *partitions: TopicPartition) -> None:
        self.held -= set(partitions)


def test_the_setting_has_two_values() -> None:
    with pytest.raises(ValueError, match="full or partitioned"):
        KafkaSettings(replica="half")
