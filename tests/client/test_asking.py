"""Asking on the embedded broker: futures, deltas, the reply partition, and awaited positions."""

import time
from concurrent.futures import CancelledError, ThreadPoolExecutor
from typing import Any

import pytest
from kafka import TopicPartition

from schemas import topics
from schemas.request import GenerationRequest
from schemas.response import GenerationResponse, ResponseDelta
from tests.client.answerer import answering, echo
from tests.conftest import wait_until
from workers import client
from workers.client import asking
from workers.generate.inflight import Pending
from workers.generate.responses import Responder
from workers.kafka.admin import ensure_topics
from workers.kafka.config import KafkaSettings


def said(response: GenerationResponse) -> str:
    assert response.error
    return response.error.message


def prompt(text: str, **more: Any) -> GenerationRequest:
    return GenerationRequest(prompt=text, **more)


def test_many_requests_are_answered_each_by_its_own(settings: KafkaSettings) -> None:
    with answering(settings), client.Client(settings) as one, client.Client(settings) as other:
        futures = [(asker.submit(prompt(f"{n}")), f"{n}") for n, asker in enumerate([one, other] * 10)]
        assert [said(future.result(30)) for future, _ in futures] == [text for _, text in futures]
        assert not one._waiting and not other._waiting


def test_answers_come_to_the_partition_that_the_client_reads(settings: KafkaSettings) -> None:
    with answering(settings), client.Client(settings) as asker:
        for future in [asker.submit(prompt("one")) for _ in range(8)]:
            future.result(30)
    consumer = settings.consumer()
    name = settings.topic(topics.GENERATION_RESPONSES)
    every = [TopicPartition(name, p) for p in sorted(consumer.partitions_for_topic(name))]
    ends = consumer.end_offsets(every)
    consumer.close()
    assert {tp.partition: ends[tp] for tp in every if ends[tp]} == {asker._partition: 8}


def test_deltas_come_once_and_in_order_before_the_response(settings: KafkaSettings) -> None:
    def stream(responder: Responder, p: Pending) -> None:
        responder.delta(p, "a ")
        p.deltas = 0  # a generator that crashed begins again
        for text in ("a ", "b"):
            responder.delta(p, text)
        echo(responder, p)

    with answering(settings, stream):
        pieces = list(client.ask(settings, prompt("done", stream=True), timeout_s=30))
    assert [piece.delta for piece in pieces if isinstance(piece, ResponseDelta)] == ["a ", "b"]
    assert isinstance(pieces[-1], GenerationResponse) and said(pieces[-1]) == "done"


def test_a_request_without_an_answer_ends_and_others_do_not(settings: KafkaSettings) -> None:
    def some(responder: Responder, p: Pending) -> None:
        if p.request.prompt != "lost":
            echo(responder, p)

    with answering(settings, some), client.Client(settings) as asker:
        lost = asker.submit(prompt("lost"), timeout_s=0.5)
        assert said(asker.submit(prompt("found")).result(30)) == "found"
        with pytest.raises(client.ClientError, match=r"within 0 s|within 1 s|is a generator running"):
            lost.result(30)


def test_closing_ends_the_requests_that_wait(settings: KafkaSettings) -> None:
    with client.Client(settings) as asker:
        waiting, given_up = asker.submit(prompt("one")), asker.submit(prompt("two"))
        assert given_up.cancel()
        wait_until(lambda: len(asker._waiting) == 1)
    with pytest.raises(client.ClientError, match="closed"):
        waiting.result(0)
    with pytest.raises(CancelledError):
        given_up.result(0)
    with pytest.raises(client.ClientError, match="closed"):
        asker.submit(prompt("three"))


def test_a_reader_that_fails_ends_the_requests_that_wait(
    settings: KafkaSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with client.Client(settings) as asker:
        waiting = asker.submit(prompt("one"))
        monkeypatch.setattr(asker._tail, "poll", lambda: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            waiting.result(30)
        with pytest.raises(client.ClientError, match="division"):
            asker.submit(prompt("two"))


def test_requests_that_wait_are_bounded(settings: KafkaSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "MAX_WAITING", 2)
    with client.Client(settings) as asker:
        for _ in range(2):
            asker.submit(prompt("one"))
        with pytest.raises(client.ClientError, match="2 requests wait"):
            asker.submit(prompt("one"))


def test_what_is_no_response_ends_the_request(settings: KafkaSettings) -> None:
    def junk(responder: Responder, p: Pending) -> None:
        responder._producer.send(
            topics.GENERATION_RESPONSES, b"{", p.request_id.encode(), p.address.partition
        )

    with answering(settings, junk), client.Client(settings) as asker:
        with pytest.raises(ValueError, match="JSON"):
            asker.submit(prompt("one")).result(30)


def test_a_failed_sending_leaves_nothing_that_waits(
    settings: KafkaSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with client.Client(settings) as asker:
        monkeypatch.setattr(asker._producer, "flush_or_raise", lambda: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            asker.submit(prompt("one"))
        assert not asker._waiting


def test_an_asker_that_is_no_longer_wanted_ends(settings: KafkaSettings) -> None:
    started = time.monotonic()
    assert list(client.ask(settings, prompt("one"), wanted=lambda: False)) == []
    assert time.monotonic() - started < asking.TIMEOUT_S


def test_a_request_waits_only_for_positions_of_its_own_cluster(settings: KafkaSettings) -> None:
    """No memory here will ever reach the positions of another broker, or of one that is gone."""
    topic_id = ensure_topics(settings)[topics.FACTS]
    recent = {"a": {f"{topic_id}/1": 5, "gone/1": 99}, "b": {"gone/0": 7}}
    with answering(settings) as seen:
        list(client.ask(settings, prompt("Hello", namespace=["a", "b"]), recent, timeout_s=30))
    assert [request.after for request in seen] == [{"a": {f"{topic_id}/1": 5}, "b": {}}]


def test_without_a_generator_the_error_says_so(settings: KafkaSettings) -> None:
    with pytest.raises(client.ClientError, match="generator"):
        next(client.ask(settings, prompt("Hello"), timeout_s=0.1))


def test_a_request_behind_others_that_cannot_be_sent_is_given_up(settings: KafkaSettings) -> None:
    with client.Client(settings) as asker, ThreadPoolExecutor() as pool:
        with asker._sending, pytest.raises(client.ClientError, match="not sent within"):
            pool.submit(asker.submit, prompt("late"), timeout_s=0.1).result(10)
        assert not asker._waiting


def test_a_client_may_be_closed_by_a_callback_of_its_own(settings: KafkaSettings) -> None:
    asker, closed = client.Client(settings), list[bool]()

    def close(_: Any) -> None:
        asker.close()
        closed.append(True)

    asker.submit(prompt("nobody answers"), timeout_s=0.1).add_done_callback(close)
    wait_until(lambda: bool(closed))
    wait_until(lambda: not asker._reader.is_alive())
