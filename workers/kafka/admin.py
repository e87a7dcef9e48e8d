"""The topics on the cluster: made where they are missing, checked, and told apart by their ids.

It knows how the topics of `schemas.topics` must be on a cluster, and how far a group is behind on them.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import KafkaError, KafkaTimeoutError, for_code

from schemas.topics import DEAD_LETTERS, MAX_RECORD_BYTES, MEMORY_CHANGELOG, TOPICS
from workers.kafka.clients import DEAD_LETTER_MAX_BYTES, KafkaSettings, KafkaUnavailable, caught_up

TIMEOUT_S = 20.0

T = TypeVar("T")


class TopicsMissing(RuntimeError):
    """A topic does not exist, or has no leader yet."""


class TopicsMismatch(RuntimeError):
    """The cluster's topics are not as the workers need them. The text says what to change."""


def ensure_topics(settings: KafkaSettings) -> dict[str, str]:
    """Create the topics that are missing and wait until the cluster shows all. Returns topic ids by short
    name.

    Others may do the same at the same time. Topics that exist decide the partition count of those that do
    not. Raises TopicsMismatch, KafkaUnavailable.
    """
    admin = settings.admin()
    try:
        deadline = time.monotonic() + TIMEOUT_S
        backoff_s = 0.05
        while True:
            try:
                _create_missing(admin, settings)
                ids = topic_ids(admin, settings)
                _check_configs(admin, settings)
                return ids
            except (KafkaError, TopicsMissing) as error:
                if time.monotonic() > deadline:
                    raise KafkaUnavailable(f"the topics could not be made ready: {error}") from None
            time.sleep(backoff_s)
            backoff_s = min(2 * backoff_s, 1.0)
    finally:
        admin.close()


def topic_ids(admin: KafkaAdminClient, settings: KafkaSettings) -> dict[str, str]:
    """The id of each topic by its short name, asked of the cluster now: a topic made anew has another.

    Raises TopicsMissing, TopicsMismatch (unequal partition counts), KafkaError.
    """
    found = {topic["name"]: topic for topic in _describe(admin, settings)}
    ids, counts = {}, {}
    for name in (topic.name for topic in TOPICS):
        topic = found.get(settings.topic(name), {"error_code": 3, "partitions": []})
        if topic["error_code"] or not topic["partitions"]:
            raise TopicsMissing(f"{settings.topic(name)}: {_error_name(topic['error_code'])}")
        if any(p["leader_id"] < 0 for p in topic["partitions"]):
            raise TopicsMissing(f"{settings.topic(name)}: a partition has no leader")
        if not topic["topic_id"]:
            raise TopicsMismatch("the broker gives topics no ids: Apache Kafka 2.8 or newer is needed")
        ids[name], counts[settings.topic(name)] = str(topic["topic_id"]), len(topic["partitions"])
    _check_counts(counts)
    return ids


def partition_count(admin: KafkaAdminClient, settings: KafkaSettings) -> int:
    """The partition count that all topics share. Raises as `topic_ids` does."""
    topic_ids(admin, settings)
    return len(_describe(admin, settings)[0]["partitions"])


def _describe(admin: KafkaAdminClient, settings: KafkaSettings) -> list[dict[str, Any]]:
    topics: list[dict[str, Any]] = admin.describe_topics([settings.topic(topic.name) for topic in TOPICS])
    return topics


def _create_missing(admin: KafkaAdminClient, settings: KafkaSettings) -> None:
    counts = {t["name"]: len(t["partitions"]) for t in _describe(admin, settings) if not t["error_code"]}
    _check_counts(counts)
    partitions = next(iter(counts.values()), settings.partitions)
    missing = {
        settings.topic(topic.name): {
            "num_partitions": partitions,
            "replication_factor": -1,  # the cluster's default
            "configs": {**topic.config, "max.message.bytes": str(_max_message_bytes(topic.name))},
        }
        for topic in TOPICS
        if settings.topic(topic.name) not in counts
    }
    if not missing:
        return
    response = admin.create_topics(missing, raise_errors=False)
    for topic in response["topics"]:
        error = for_code(topic["error_code"])
        if topic["error_code"] and error.__name__ != "TopicAlreadyExistsError" and not error.retriable:
            raise TopicsMismatch(
                f"the topic {topic['name']} could not be created: {topic['error_message'] or error.__name__}"
            )


def _max_message_bytes(name: str) -> int:
    return DEAD_LETTER_MAX_BYTES if name == DEAD_LETTERS else MAX_RECORD_BYTES


def _check_counts(counts: dict[str, int]) -> None:
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{name} has {count}" for name, count in sorted(counts.items()))
        raise TopicsMismatch(
            "all topics must have the same number of partitions, for a namespace owns a partition number: "
            f"{listed}. Delete the ones that differ (they are made anew), or choose "
            "another --topic-prefix"
        )


def _check_configs(admin: KafkaAdminClient, settings: KafkaSettings) -> None:
    """Refuse topics that somebody else made and that would lose data: only the two configs on which that
    depends.

    A broker that tells nothing (the embedded one, or one whose ACLs forbid to ask) is believed.
    """
    names = [settings.topic(name) for name in (MEMORY_CHANGELOG, DEAD_LETTERS)]
    resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
    try:
        told = admin.describe_configs(resources, config_filter="all").get("topic", {})
    except KafkaError:
        return
    changelog, letters = (told.get(name, {}) for name in names)
    if "compact" not in changelog.get("cleanup.policy", {}).get("value", "compact"):
        raise TopicsMismatch(f"the topic {names[0]} must have cleanup.policy=compact")
    if int(letters.get("max.message.bytes", {}).get("value", DEAD_LETTER_MAX_BYTES)) < DEAD_LETTER_MAX_BYTES:
        raise TopicsMismatch(
            f"the topic {names[1]} must have max.message.bytes={DEAD_LETTER_MAX_BYTES} or more"
        )


def _error_name(code: int) -> str:
    return str(for_code(code).__name__)


def end_offsets(consumer: KafkaConsumer, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
    """The offset after the last record of each partition. `consumer` has no group; its assignment is
    replaced.

    The embedded broker answers ListOffsets with the end's last batch counted as one record, so the answer
    is taken from a fetch of that batch, which tells the high watermark. Raises KafkaError.
    """
    return _bounds(consumer, partitions)[1]


def _bounds(
    consumer: KafkaConsumer, partitions: Sequence[TopicPartition]
) -> tuple[dict[TopicPartition, int], dict[TopicPartition, int]]:
    """The first offset and the end of each partition."""
    consumer.unsubscribe()  # forgets the high watermarks of an earlier call
    consumer.assign(list(partitions))
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        for topic in {tp.topic for tp in partitions}:
            consumer.partitions_for_topic(topic)  # the client cannot ask about a topic that it has not seen
        try:
            first, listed = consumer.beginning_offsets(partitions), consumer.end_offsets(partitions)
            break
        except KeyError:  # kafka-python 3.0.12 leaves out what an answer about other topics made it forget
            if time.monotonic() > deadline:
                raise KafkaTimeoutError(f"no answer about {len(partitions)} partitions") from None
            time.sleep(0.05)
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


def standing(
    consumer: KafkaConsumer, partitions: Sequence[TopicPartition]
) -> dict[TopicPartition, tuple[dict[bytes, int], int]]:
    """What stands on partitions of a compacted topic: each key with the `hash` of its value, and the end that was seen.

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
    """How many records of each topic the worker's group has not committed yet. Names are short; as `reached`."""
    behind = dict.fromkeys(topics, 0)
    for tp, (done, end) in reached(admin, consumer, settings, worker, topics).items():
        behind[settings.short(tp.topic)] += end - done
    return behind


def reached(
    admin: KafkaAdminClient,
    consumer: KafkaConsumer,
    settings: KafkaSettings,
    worker: str,
    topics: Sequence[str],
) -> dict[TopicPartition, tuple[int, int]]:
    """How far the worker's group has committed each partition, and its end.

    `consumer` has no group and is used as by `end_offsets`. Raises KafkaError.
    """
    partitions = [
        TopicPartition(topic["name"], p["partition_index"])
        for topic in admin.describe_topics([settings.topic(name) for name in topics])
        for p in topic["partitions"]
    ]
    group = settings.group(worker)
    committed = _retrying(lambda: admin.list_group_offsets({group: partitions})).get(group, {})
    first, ends = _bounds(consumer, partitions)
    at = {tp: max(committed[tp].offset if tp in committed else -1, first[tp]) for tp in partitions}
    return {tp: (min(at[tp], ends[tp]), ends[tp]) for tp in partitions}


def _retrying(ask: Callable[[], T]) -> T:
    """`ask` again for a while where the error says that it may help: the first group of a cluster has no
    coordinator yet."""
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        try:
            return ask()
        except KafkaError as error:
            if not error.retriable or time.monotonic() > deadline:
                raise
        time.sleep(0.2)
