"""The producer and its flush contract, and dead letters."""

import os
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from kafka.errors import KafkaTimeoutError
from kafka.future import Future
from kafka.partitioner.default import DefaultPartitioner

from schemas.topics import FACTS, MAX_RECORD_BYTES
from tests.kafka.conftest import read_records
from workers.kafka import producer as producer_module
from workers.kafka.admin import ensure_topics
from workers.kafka.config import KafkaSettings
from workers.kafka.errors import RecordTooLarge
from workers.kafka.partitioner import partition_for
from workers.kafka.producer import Producer
from workers.runtime import embedded_broker as broker

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def test_two_megabytes_arrive_with_key_headers_and_timestamp(
    settings: KafkaSettings, producer: Producer
) -> None:
    value = os.urandom(2_000_000)
    producer.send(FACTS, value, key=b"bob", headers=[("a", b"1")], timestamp_ms=1_700_000_000_000)
    (sent,) = producer.flush_or_raise()
    assert (sent.partition, sent.offset) == (partition_for("bob", 4), 0)
    (record,) = read_records(settings, FACTS, 1)
    assert record.value == value and record.key == b"bob"
    assert record.headers == [("a", b"1")] and record.timestamp == 1_700_000_000_000


def test_flush_returns_metadata_in_the_order_of_sending(producer: Producer) -> None:
    for number in range(20):
        producer.send(FACTS, b"%d" % number, partition=number % 2)
    sent = producer.flush_or_raise()
    assert [(m.partition, m.offset) for m in sent] == [(number % 2, number // 2) for number in range(20)]
    assert producer.flush_or_raise() == []


@pytest.mark.parametrize(
    ("key", "hashed"),  # of org.apache.kafka.common.utils.UtilsTest
    [
        ("21", -973932308),
        ("foobar", -790332482),
        ("a-little-bit-long-string", -985981536),
        ("a-little-bit-longer-string", -1486304829),
        ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        ("abc", 479470107),
    ],
)
def test_partition_is_the_one_of_any_kafka_client(key: str, hashed: int) -> None:
    assert partition_for(key, 2**31) == hashed & 0x7FFFFFFF
    partitioner = DefaultPartitioner()
    for count in (1, 3, 4, 50):
        numbers = range(count)
        cluster: Any = SimpleNamespace(
            topics=lambda: {"t"},
            partitions_for_topic=lambda topic, numbers=numbers: set(numbers),
            available_partitions_for_topic=lambda topic, numbers=numbers: set(numbers),
        )
        assert partition_for(key, count) == partitioner.partition(
            "t", None, key.encode(), None, None, cluster
        )


def test_record_too_large_is_refused_and_the_producer_stays_usable(producer: Producer) -> None:
    with pytest.raises(RecordTooLarge, match="facts"):
        producer.send(FACTS, b"x" * MAX_RECORD_BYTES)
    producer.send(FACTS, b"small", partition=0)
    assert [m.offset for m in producer.flush_or_raise()] == [0]


def test_unacknowledged_records_are_bounded(producer: Producer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(producer_module, "MAX_UNACKNOWLEDGED", 10)
    for _ in range(35):
        producer.send(FACTS, b"x", partition=0)
        assert len(producer._pending) <= 10
    assert [m.offset for m in producer.flush_or_raise()] == list(range(35))


def test_flush_raises_a_failure_once(producer: Producer, monkeypatch: pytest.MonkeyPatch) -> None:
    class Failed(Future):  # type: ignore[misc]
        def get(self, timeout: float | None = None) -> None:
            raise KafkaTimeoutError("expired")

    send = producer._client.send
    monkeypatch.setattr(producer._client, "send", lambda *args, **kwargs: Failed())
    producer.send(FACTS, b"lost", partition=0)
    monkeypatch.setattr(producer._client, "send", send)
    producer.send(FACTS, b"kept", partition=0)
    with pytest.raises(KafkaTimeoutError, match="expired"):
        producer.flush_or_raise()
    producer.send(FACTS, b"next", partition=0)
    assert len(producer.flush_or_raise()) == 1


def test_producer_closes_with_unacknowledged_records(tmp_path: Path) -> None:
    running = broker.start(broker.free_port(), tmp_path / "broker.log")
    settings = KafkaSettings(running.bootstrap)
    ensure_topics(settings)
    producer = settings.producer()
    producer.send(FACTS, b"kept", partition=0)
    producer.flush_or_raise()
    running.process.kill()
    running.process.wait()
    producer.send(FACTS, b"too late", partition=0)
    producer.close(timeout_s=0.5)
    assert not producer._client._sender.is_alive()
    running.stop()
