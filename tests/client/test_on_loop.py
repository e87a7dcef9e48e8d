"""The client on an event loop: its end."""

import asyncio

import pytest

from schemas import topics
from schemas.fact import Fact
from workers.client import ClientError, LoopClient
from workers.kafka import TopicPartition
from workers.kafka.config import KafkaSettings


def test_a_publication_that_nobody_decides_ends_with_the_client(settings: KafkaSettings) -> None:
    """Its thread would keep a process that was asked to stop."""

    async def run() -> None:
        client = LoopClient(settings)
        publishing = asyncio.ensure_future(client.publish([("a", Fact(text="x"))], wait=True))
        while not await asyncio.to_thread(_sent, settings):
            await asyncio.sleep(0.1)
        client.close()
        with pytest.raises(ClientError, match="stopping"):
            await asyncio.wait_for(publishing, 20)

    asyncio.run(run())


def _sent(settings: KafkaSettings) -> bool:
    consumer = settings.consumer()
    try:
        name = settings.topic(topics.FACTS)
        numbers = consumer.partitions_for_topic(name) or set()
        return any(consumer.end_offsets([TopicPartition(name, number) for number in numbers]).values())
    finally:
        consumer.close(autocommit=False)
