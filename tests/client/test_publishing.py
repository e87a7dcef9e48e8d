"""Publishing on the embedded broker: each fact counts once, however often it has to be sent.

A stand-in decides the facts; the real workers are in tests/end_to_end.
"""

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from kafka import TopicPartition
from kafka.errors import KafkaTimeoutError

from schemas import topics
from schemas.changelog import Decided, PositionRecord, changelog_key
from schemas.common import encode
from schemas.fact import Conversation, Fact, Forget, Turn, decode_fact
from tests.conftest import wait_until
from workers import client
from workers.client import publishing
from workers.kafka.admin import ensure_topics
from workers.kafka.config import KafkaSettings
from workers.kafka.dead_letters import dead_letter
from workers.kafka.errors import KafkaUnavailable
from workers.kafka.producer import Producer
from workers.runtime import embedded_broker as broker

PAIRS: list[tuple[str, Fact | Forget]] = [("default", Fact(text=f"Fact {n}.")) for n in range(3)]


class Decider:
    """A stand-in for the workers: decides every fact and keeps its fact_id; a "bad" one is a dead letter."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings, self._stop = settings, threading.Event()
        self.fact_ids: list[str | None] = []
        self.times: list[int] = []
        self.ids = ensure_topics(settings)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        consumer, producer = self._settings.consumer(), self._settings.producer()
        name = self._settings.topic(topics.FACTS)
        consumer.assign([TopicPartition(name, p) for p in sorted(consumer.partitions_for_topic(name))])
        consumer.seek_to_beginning()
        while not self._stop.is_set():
            for records in consumer.poll(timeout_ms=50).values():
                for record in records:
                    self._decide(producer, record)
            producer.flush_or_raise()
        consumer.close()
        producer.close()

    def _decide(self, producer: Producer, record: Any) -> None:
        namespace, fact, _ = decode_fact(record.key, record.value)
        statements = len(fact.messages) if isinstance(fact, Conversation) else 1
        if not isinstance(fact, Fact | Conversation) or (isinstance(fact, Fact) and "bad" in fact.text):
            dead_letter(producer, record, "odd", "said the test", "test", datetime.now(UTC))
            return
        outcome = "duplicate" if fact.fact_id in self.fact_ids else "learned"
        self.fact_ids.append(fact.fact_id)
        self.times.append(record.timestamp)
        one: dict[str, Any] = {
            "topic_id": self.ids[topics.FACTS],
            "partition": record.partition,
            "offset": record.offset,
        }
        positions = PositionRecord(
            namespace=namespace, positions={f"{one['topic_id']}/{record.partition}": record.offset},
            decided=[Decided(**one, outcome=outcome)] * statements,  # type: ignore[arg-type]
        )  # fmt: skip
        producer.send(topics.MEMORY_CHANGELOG, encode(positions), changelog_key(namespace), record.partition)

    def end(self) -> None:
        self._stop.set()
        self._thread.join(30)


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publishing, "BACKOFF_S", 0.01)
    monkeypatch.setattr(publishing, "BROKER_CHECK_S", 0.3)


@pytest.fixture
def decider(settings: KafkaSettings) -> Iterator[Decider]:
    started = Decider(settings)
    yield started
    started.end()


def test_each_fact_gets_an_id_of_its_own(settings: KafkaSettings, decider: Decider) -> None:
    same = [("default", Fact(text="Said twice."))] * 2
    for _ in range(2):
        done = client.publish(settings, [*same, ("default", Fact(text="a", fact_id="mine"))], wait=True)
        assert done.sent == done.outcomes.total() == 3
    mine = [one for one in decider.fact_ids if one == "mine"]
    assert len(mine) == 2 and len(set(decider.fact_ids)) == 1 + 4 and None not in decider.fact_ids


def test_all_decisions_about_a_conversation_are_told(settings: KafkaSettings, decider: Decider) -> None:
    talk = Conversation(messages=[Turn(role="user", content=text) for text in ("I moved.", "I like tea.")])
    done = client.publish(settings, [("default", talk), ("default", Fact(text="a"))], wait=True)
    assert done.sent == 2 and done.outcomes == {"learned": 3} and len(done.decided) == 3
    assert len(set(decider.fact_ids)) == 2 and None not in decider.fact_ids, "a conversation has an id, too"


def test_positions_reached_are_those_of_decided_facts(settings: KafkaSettings, decider: Decider) -> None:
    facts: list[tuple[str, Fact | Forget]] = [
        ("a", Fact(text="Good.")),
        ("a", Fact(text="A bad one.")),
        ("b", Forget(forget="0" * 32)),
    ]
    done = client.publish(settings, facts, wait=True)
    assert done.outcomes == {"learned": 1, "dead-lettered": 2} and done.sent == 3
    # A request that waited for the dead letter would wait in vain.
    assert [list(at.values()) for at in done.after.values()] == [[0]] and list(done.after) == ["a"]


def test_without_waiting_the_sent_positions_are_returned(settings: KafkaSettings) -> None:
    done = client.publish(settings, PAIRS)
    (at,) = done.after.values()
    assert done.sent == 3 and list(at.values()) == [2] and not done.outcomes


def test_unconfirmed_facts_are_sent_again_and_count_once(
    settings: KafkaSettings, decider: Decider, monkeypatch: pytest.MonkeyPatch
) -> None:
    flush, failures = Producer.flush_or_raise, [KafkaTimeoutError("no answer")] * 2

    def flush_without_confirmation(producer: Producer) -> list[Any]:
        sent = flush(producer)
        if failures and threading.current_thread() is threading.main_thread():
            raise failures.pop()
        return sent

    monkeypatch.setattr(Producer, "flush_or_raise", flush_without_confirmation)
    done = client.publish(settings, PAIRS, wait=True)
    assert done.sent == done.outcomes.total() == 3
    assert len(decider.fact_ids) == 9 and len(set(decider.fact_ids)) == 3


def test_retries_are_bounded(settings: KafkaSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[None] = []

    def fails(_: Producer) -> list[Any]:
        tries.append(None)
        raise KafkaTimeoutError("no answer")

    monkeypatch.setattr(Producer, "flush_or_raise", fails)
    with pytest.raises(KafkaTimeoutError):
        client.publish(settings, PAIRS, wait=True)
    assert len(tries) == 1 + publishing.RETRIES
    with pytest.raises(KafkaTimeoutError):
        client.publish(settings, PAIRS)
    assert len(tries) == 2 + publishing.RETRIES


def test_a_missing_broker_is_reported_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("it waited"))
    with pytest.raises(KafkaUnavailable):
        client.publish(KafkaSettings("127.0.0.1:1", connect_timeout_s=0.2), PAIRS, wait=True)


def test_offsets_of_a_wiped_broker_are_not_taken_for_the_new_ones(
    tmp_path: Path,
) -> None:
    """Between two flushes the broker is wiped: the same offsets are given again, to other facts."""
    running = [broker.start(broker.free_port(), tmp_path / "broker.log")]
    settings = KafkaSettings(running[0].bootstrap, connect_timeout_s=1)
    deciders = list[Decider]()

    def facts() -> Iterator[tuple[str, Fact | Forget]]:
        for n in range(1000):
            if n == 700:  # 500 are confirmed, and nobody has decided them
                running[0].process.kill()
                running[0].process.wait()
                running[0] = broker.start(running[0].port, tmp_path / "broker.log")
                deciders.append(Decider(replace(settings, connect_timeout_s=30)))
            yield "default", Fact(text=f"Fact {n}.")

    try:
        done = client.publish(settings, facts(), wait=True)
        assert done.sent == 1000 == done.outcomes.total()
        assert len(set(deciders[0].fact_ids)) == 1000
    finally:
        for decider in deciders:
            decider.end()
        running[0].stop()


def test_a_fact_sent_again_keeps_its_timestamp(
    settings: KafkaSettings, decider: Decider, monkeypatch: pytest.MonkeyPatch
) -> None:
    flush, failures = Producer.flush_or_raise, [KafkaTimeoutError("no answer")]

    def flush_without_confirmation(producer: Producer) -> list[Any]:
        sent = flush(producer)
        if failures and threading.current_thread() is threading.main_thread():
            raise failures.pop()
        return sent

    monkeypatch.setattr(Producer, "flush_or_raise", flush_without_confirmation)
    clock = iter(range(100, 200))
    client.publish(settings, PAIRS, wait=True, clock=lambda: next(clock))
    assert decider.times == [100_000, 101_000, 102_000] * 2


def test_facts_lost_by_a_broker_are_sent_to_the_next_one(tmp_path: Path) -> None:
    """The embedded broker keeps topics in memory: a restart loses confirmed records."""
    running = broker.start(broker.free_port(), tmp_path / "broker.log")
    settings = KafkaSettings(running.bootstrap, connect_timeout_s=1)
    decided: list[client.Published] = []
    sent = threading.Event()
    publisher = threading.Thread(
        target=lambda: decided.append(
            client.publish(settings, PAIRS, wait=True, progress=lambda n, _: sent.set() if n == 3 else None)
        )
    )
    publisher.start()
    decider = None
    try:
        wait_until(sent.is_set)
        running.process.kill()
        running.process.wait()
        running = broker.start(running.port, tmp_path / "broker.log")
        decider = Decider(settings)
        publisher.join(60)
        (done,) = decided
        assert done.outcomes == {"learned": 3} and done.sent == 3
        assert len(decider.fact_ids) == 3
        assert [where.split("/")[0] for at in done.after.values() for where in at] == [
            decider.ids[topics.FACTS]
        ]
    finally:
        if decider:
            decider.end()
        running.stop()
        publisher.join(60)
