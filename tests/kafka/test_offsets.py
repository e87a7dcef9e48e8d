"""Offsets: ends, lag, and the latest value of each key."""

from types import SimpleNamespace
from typing import Any

import pytest
from kafka import TopicPartition

from schemas.topics import FACTS, MEMORY_HITS
from tests.conftest import wait_until
from workers.kafka.admin import ensure_topics
from workers.kafka.config import KafkaSettings
from workers.kafka.offsets import caught_up, end_offsets, lag, latest_by_key, unread
from workers.kafka.producer import Producer


def test_lag_and_end_count_every_record_of_a_batch(settings: KafkaSettings, producer: Producer) -> None:
    for number in range(30):
        producer.send(FACTS, b"x", partition=number % 3)
    producer.flush_or_raise()
    partitions = [TopicPartition(settings.topic(FACTS), number) for number in range(4)]
    asker, admin = settings.consumer(), settings.admin()
    assert list(end_offsets(asker, partitions).values()) == [10, 10, 10, 0]
    assert lag(admin, asker, settings, "encoder", [FACTS, MEMORY_HITS]) == {FACTS: 30, MEMORY_HITS: 0}

    reader = settings.consumer(settings.group("encoder"), max_poll_records=4)
    reader.assign(partitions[:3])
    assert not caught_up(reader)
    wait_until(lambda: reader.poll(timeout_ms=100) == {} and caught_up(reader))
    reader.commit()
    producer.send(FACTS, b"x", partition=0)
    producer.flush_or_raise()
    assert lag(admin, asker, settings, "encoder", [FACTS]) == {FACTS: 1}
    for client in (asker, reader):
        client.close(autocommit=False)
    admin.close()


def test_end_offsets_retries_when_the_client_forgot_a_topic(
    settings: KafkaSettings, producer: Producer, monkeypatch: pytest.MonkeyPatch
) -> None:
    producer.send(FACTS, b"x", partition=0)
    producer.flush_or_raise()
    asker, place = settings.consumer(), TopicPartition(settings.topic(FACTS), 0)
    real, failures = asker.end_offsets, iter([KeyError(place)])

    def forgetful(partitions: Any) -> Any:
        for error in failures:
            raise error
        return real(partitions)

    monkeypatch.setattr(asker, "end_offsets", forgetful)
    assert end_offsets(asker, [place]) == {place: 1}
    asker.close(autocommit=False)


def test_latest_value_of_each_key_of_a_compacted_topic(settings: KafkaSettings, producer: Producer) -> None:
    first, second, empty = (TopicPartition(settings.topic(FACTS), number) for number in range(3))
    for key, value in ((b"a", b"1"), (b"b", b"2"), (b"a", b"3"), (b"b", None), (None, b"no key")):
        producer.send(FACTS, value, key, partition=0)
    producer.send(FACTS, b"4", b"b", partition=1)
    producer.flush_or_raise()
    asker = settings.consumer()
    for _ in range(2):
        assert latest_by_key(asker, [first, second, empty]) == {
            first: ({b"a": hash(b"3")}, 5), second: ({b"b": hash(b"4")}, 1), empty: ({}, 0),
        }  # fmt: skip
        assert end_offsets(asker, [second, empty]) == {second: 1, empty: 0}
    assert latest_by_key(asker, []) == {}
    asker.close(autocommit=False)


def test_an_unchanged_partition_is_read_again_by_the_same_consumer(settings: KafkaSettings) -> None:
    """A writer does so when a partition comes back to it; an incremental fetch would not name the partition."""
    ensure_topics(settings)
    empty, asker = TopicPartition(settings.topic(FACTS), 0), settings.consumer()
    assert latest_by_key(asker, [empty]) == {empty: ({}, 0)}
    assert latest_by_key(asker, [empty]) == {empty: ({}, 0)}
    asker.close(autocommit=False)


def test_unread_counts_from_positions_or_from_given_offsets() -> None:
    owned = [TopicPartition("facts", number) for number in range(3)]
    ends = dict(zip(owned, (10, 10, None), strict=True))
    consumer: Any = SimpleNamespace(
        assignment=lambda: set(owned), highwater=ends.get, position=lambda tp, timeout_ms: 4
    )
    assert unread(consumer) == {owned[0]: 6, owned[1]: 6}, "the end of the third is not known"
    assert unread(consumer, {owned[1]: 1, owned[2]: 1}) == {owned[1]: 9}
