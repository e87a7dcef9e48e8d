"""Gathering of records into larger batches, for a worker whose batches each cost a request to a store."""

import time
from typing import Any

from workers.kafka import KafkaConsumer, TopicPartition
from workers.runtime.group import Rebalances

MAX_BYTES = 12 * 1024 * 1024
"""Size of a batch that is large enough: about 5,000 encoded facts."""

Batch = dict[TopicPartition, list[Any]]


def gather(consumer: KafkaConsumer, first: Batch, until: float, rebalances: Rebalances) -> Batch:
    """Polls on until the monotonic clock reaches `until`, or there are MAX_BYTES, and returns all.

    After a quiet time `until` lies in the past, and nothing waits; the more there is to do, the larger the batches become.
    Where the group decides something meanwhile, nothing is returned and everything read again: its owner may have changed.
    """
    batch = {tp: list(records) for tp, records in first.items()}
    while (
        batch
        and not rebalances.events
        and (left_s := until - time.monotonic()) > 0
        and _size(batch) < MAX_BYTES
    ):
        for tp, records in consumer.poll(timeout_ms=1 + int(1000 * left_s)).items():
            batch.setdefault(tp, []).extend(records)
        if rebalances.events:
            owned = consumer.assignment()
            for tp, records in batch.items():
                if tp in owned:
                    consumer.seek(tp, records[0].offset)
            return {}
    return batch


def _size(batch: Batch) -> int:
    return sum(len(record.value or b"") for records in batch.values() for record in records)
