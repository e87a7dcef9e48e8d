"""The client on an event loop: publications side by side, and its end."""

import asyncio

import pytest

from schemas import topics
from schemas.fact import Fact
from workers.client import ClientError, LoopClient
from workers.client.on_loop import WAITERS
from workers.kafka import TopicPartition
from workers.kafka.config import KafkaSettings


def test_publications_that_nobody_decides_hold_up_no_others_and_end_with_the_client(
    settings: KafkaSettings,
) -> None:
    """Their threads would keep a process that was asked to stop."""

    async def run() -> None:
        client = LoopClient(settings)
        waiting = [
            asyncio.ensure_future(client.publish([("a", Fact(text=f"x {n}"))], wait=True))
            for n in range(WAITERS)
        ]
        while await asyncio.to_thread(_sent, settings) < WAITERS:
            await asyncio.sleep(0.1)
        told = await asyncio.wait_for(client.publish([("a", Fact(text="y"))]), 60)
        assert told.sent == 1 and not any(one.done() for one in waiting)
        client.close()
        for one in waiting:
            with pytest.raises(ClientError, match="stopping"):
                await asyncio.wait_for(one, 60)

    asyncio.run(run())


def _sent(settings: KafkaSettings) -> int:
    consumer = settings.consumer()
    try:
        name = settings.topic(topics.FACTS)
        numbers = consumer.partitions_for_topic(name) or set()
        return sum(consumer.end_offsets([TopicPartition(name, number) for number in numbers]).values())
    finally:
        consumer.close(autocommit=False)
