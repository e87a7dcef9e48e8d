"""A producer on the tests' topics, and a reader of them."""

from collections.abc import Iterator
from typing import Any

import pytest
from kafka import TopicPartition

from tests.conftest import wait_until
from workers.kafka.admin import ensure_topics
from workers.kafka.config import KafkaSettings
from workers.kafka.producer import Producer


@pytest.fixture
def producer(settings: KafkaSettings) -> Iterator[Producer]:
    ensure_topics(settings)
    made = settings.producer()
    yield made
    made.close()


def read_records(settings: KafkaSettings, topic: str, count: int) -> list[Any]:
    """The first `count` records of all partitions of a topic."""
    consumer = settings.consumer()
    consumer.assign([TopicPartition(settings.topic(topic), number) for number in range(settings.partitions)])
    records: list[Any] = []

    def enough() -> bool:
        for polled in consumer.poll(timeout_ms=200).values():
            records.extend(polled)
        return len(records) >= count

    wait_until(enough)
    consumer.close(autocommit=False)
    return records
