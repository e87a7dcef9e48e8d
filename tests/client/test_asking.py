"""Asking on the embedded broker: which positions a request waits for."""

from typing import Any

import pytest
from kafka import TopicPartition

from schemas import topics
from schemas.request import GenerationRequest, decode_request
from tests.conftest import wait_until
from workers import client
from workers.kafka.admin import ensure_topics
from workers.kafka.config import KafkaSettings


def test_a_request_waits_only_for_positions_of_its_own_cluster(settings: KafkaSettings) -> None:
    """No memory here will ever reach the positions of another broker, or of one that is gone."""
    topic_id = ensure_topics(settings)[topics.FACTS]
    recent = {"a": {f"{topic_id}/1": 5, "gone/1": 99}, "b": {"gone/0": 7}}
    request = GenerationRequest(prompt="Hello", namespace=["a", "b"])
    with pytest.raises(client.ClientError, match="generator"):
        next(client.ask(settings, request, recent, timeout_s=0.1))
    consumer = settings.consumer()
    name = settings.topic(topics.GENERATION_REQUESTS)
    consumer.assign([TopicPartition(name, p) for p in sorted(consumer.partitions_for_topic(name))])
    consumer.seek_to_beginning()
    found: list[Any] = []

    def polled() -> bool:
        for records in consumer.poll(timeout_ms=100).values():
            found.extend(records)
        return bool(found)

    wait_until(polled)
    consumer.close()
    assert decode_request(found[0].key, found[0].value)[1].after == {"a": {f"{topic_id}/1": 5}, "b": {}}
