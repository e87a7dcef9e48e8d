"""Offsets: the ends of partitions, the commits of groups, and the progress of consumers."""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from typing import TypeVar

from kafka import KafkaAdminClient, KafkaConsumer, OffsetAndMetadata, TopicPartition

from workers.kafka.config import KafkaSettings
from workers.kafka.errors import KafkaError, KafkaTimeoutError

TIMEOUT_S = 20.0
COMMIT_TIMEOUT_MS = 4000

T = TypeVar("T")


def end_offsets(consumer: KafkaConsumer, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
    """The offset after the last record of each partition. `consumer` has no group; its assignment is replaced.

    The embedded broker counts the last batch as one record when it answers ListOffsets, so the end is taken from a fetch
    of that batch, whose answer has the high watermark. Raises KafkaError.
    """
    return _bounds(consumer, partitions)[1]


def _bounds(
    consumer: KafkaConsumer, partitions: Sequence[TopicPartition]
) -> tuple[dict[TopicPartition, int], dict[TopicPartition, int]]:
    """The first offset and the end of each partition."""
    consumer.unsubscribe()  # forgets the high watermarks of an earlier call
    consumer.assign(list(partitions))
    deadline = time.monotonic() + TIMEOUT_S
    first, listed = _listed(consumer, partitions)
    ends = {tp: int(listed[tp]) for tp in partitions}
    written = [tp for tp in partitions if listed[tp] > first[tp]]
    if not written:
        return first, ends
    consumer.assign(written)
    for tp in written:
        consumer.seek(tp, listed[tp] - 1)
    while any(consumer.highwater(tp) is None for tp in written):
        if time.monotonic() > deadline:
            raise KafkaTimeoutError(f"no answer about the end of {len(written)} partitions")
        consumer.poll(timeout_ms=100)
    return first, ends | {tp: max(ends[tp], int(consumer.highwater(tp))) for tp in written}


def _listed(
    consumer: KafkaConsumer, partitions: Sequence[TopicPartition]
) -> tuple[dict[TopicPartition, int], dict[TopicPartition, int]]:
    """The first offset of each partition, and its end, which the embedded broker may tell too low, but of an empty one."""
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        for topic in {tp.topic for tp in partitions}:
            consumer.partitions_for_topic(topic)  # the client cannot ask about a topic that it has not seen
        try:
            return consumer.beginning_offsets(partitions), consumer.end_offsets(partitions)
        except KeyError:  # kafka-python 3.0.12 forgets topics when it gets an answer about others
            if time.monotonic() > deadline:
                raise KafkaTimeoutError(f"no answer about {len(partitions)} partitions") from None
            time.sleep(0.05)


def with_records(consumer: KafkaConsumer, partitions: Sequence[TopicPartition]) -> list[TopicPartition]:
    """The partitions that have records, without a fetch: one of an empty partition takes half a second. Raises KafkaError."""
    first, listed = _listed(consumer, partitions)
    return [tp for tp in partitions if listed[tp] > first[tp]]


def latest_by_key(
    consumer: KafkaConsumer, partitions: Sequence[TopicPartition]
) -> dict[TopicPartition, tuple[dict[bytes, int], int]]:
    """Keys of each partition of a compacted topic, each with the `hash` of the latest value, and the end offset.

    `consumer` is used as by `end_offsets`. Raises KafkaError.
    """
    found: dict[TopicPartition, dict[bytes, int]] = {tp: {} for tp in partitions}
    if not partitions:
        return {}
    consumer.unsubscribe()
    consumer.assign(list(partitions))
    consumer.seek_to_beginning()
    deadline = time.monotonic() + TIMEOUT_S
    while not caught_up(consumer):
        polled = consumer.poll(timeout_ms=100)
        for tp, records in polled.items():
            for record in records:
                if record.value is None:
                    found[tp].pop(record.key, None)
                elif record.key is not None:
                    found[tp][record.key] = hash(record.value)
        if polled:
            deadline = time.monotonic() + TIMEOUT_S
        elif time.monotonic() > deadline:
            raise KafkaTimeoutError(f"no answer about {len(partitions)} partitions")
    return {tp: (keys, int(consumer.position(tp))) for tp, keys in found.items()}


def lag(
    admin: KafkaAdminClient,
    consumer: KafkaConsumer,
    settings: KafkaSettings,
    worker: str,
    topics: Sequence[str],
) -> dict[str, int]:
    """The number of records of each topic that the worker's group has not committed. Names are short.

    `consumer` is used as by `end_offsets`. Raises KafkaError.
    """
    uncommitted = dict.fromkeys(topics, 0)
    for tp, (committed, end) in group_progress(admin, consumer, settings, worker, topics).items():
        uncommitted[settings.short(tp.topic)] += end - committed
    return uncommitted


def group_progress(
    admin: KafkaAdminClient,
    consumer: KafkaConsumer,
    settings: KafkaSettings,
    worker: str,
    topics: Sequence[str],
) -> dict[TopicPartition, tuple[int, int]]:
    """The committed offset of the worker's group and the end offset, for each partition of the topics.

    `consumer` is used as by `end_offsets`. Raises KafkaError.
    """
    full = [settings.topic(name) for name in topics]
    return progress(admin, consumer, settings.group(worker), full)


def progress(
    admin: KafkaAdminClient, consumer: KafkaConsumer, group: str, topics: Sequence[str]
) -> dict[TopicPartition, tuple[int, int]]:
    """The same as `group_progress`, by the full names of group and topics; nothing for a topic that does not exist."""
    if not topics:
        return {}
    partitions = [
        TopicPartition(topic["name"], p["partition_index"])
        for topic in admin.describe_topics(list(topics))
        for p in topic["partitions"]
    ]
    if not partitions:
        return {}
    at = committed(admin, group, partitions)
    first, ends = _bounds(consumer, partitions)
    at = {tp: max(offset, first[tp]) for tp, offset in at.items()}
    return {tp: (min(at[tp], ends[tp]), ends[tp]) for tp in partitions}


def committed(
    admin: KafkaAdminClient, group: str, partitions: Sequence[TopicPartition]
) -> dict[TopicPartition, int]:
    """The offset that a group has committed for each partition; -1 where it has none. Raises KafkaError."""
    found = _retrying(lambda: admin.list_group_offsets({group: partitions})).get(group, {})
    return {tp: int(found[tp].offset) if tp in found else -1 for tp in partitions}


def _retrying(call: Callable[[], T]) -> T:
    """Repeat `call` after retriable errors: the first group of a cluster has no coordinator yet. Raises KafkaError."""
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        try:
            return call()
        except KafkaError as error:
            if not error.retriable or time.monotonic() > deadline:
                raise
        time.sleep(0.2)


def caught_up(consumer: KafkaConsumer, partitions: Collection[TopicPartition] | None = None) -> bool:
    """Whether a consumer has read everything, or these partitions, up to the ends that its last fetches saw.

    An empty poll does not show it: a poll is also empty while the broker is away.
    """
    for tp in consumer.assignment() if partitions is None else partitions:
        end, position = consumer.highwater(tp), consumer.position(tp, timeout_ms=1000)
        if end is None or position is None or position < end:
            return False
    return True


def unread(
    consumer: KafkaConsumer, since: Mapping[TopicPartition, int] | None = None
) -> dict[TopicPartition, int]:
    """The records of each partition from the offset in `since` to the end that the last fetch saw, where both are known.

    Without `since`, from the consumer's position. It sends no request to the cluster.
    """
    counts = {}
    for tp in sorted(consumer.assignment()) if since is None else since:
        with suppress(KafkaError):
            end = consumer.highwater(tp)
            start = consumer.position(tp, timeout_ms=100) if since is None else since[tp]
            if end is not None and start is not None:
                counts[tp] = max(0, end - start)
    return counts


def commit(consumer: KafkaConsumer, offsets: Mapping[TopicPartition, int]) -> None:
    """Commit the next offset to read of each partition for the consumer's group. Raises KafkaError."""
    consumer.commit(
        {tp: OffsetAndMetadata(offset, "", -1) for tp, offset in offsets.items()},
        timeout_ms=COMMIT_TIMEOUT_MS,
    )
