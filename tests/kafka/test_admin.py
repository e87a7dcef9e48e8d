"""The topics on a cluster: created once, checked, and refused if they would lose data."""

import threading
from types import SimpleNamespace
from typing import Any

import pytest
from kafka import KafkaAdminClient, TopicPartition

from schemas.topics import DEAD_LETTERS, FACTS, MEMORY_HITS, TOPICS
from workers.kafka.admin import _check_configs, ensure_topics, topic_ids, writable_partitions
from workers.kafka.config import KafkaSettings
from workers.kafka.errors import TopicsMismatch, TopicsMissing


def partitions(admin: KafkaAdminClient, settings: KafkaSettings) -> int:
    return len(admin.describe_topics([settings.topic(FACTS)])[0]["partitions"])


def test_topics_are_created_once_by_concurrent_callers(settings: KafkaSettings) -> None:
    made: list[dict[str, str]] = []
    threads = [threading.Thread(target=lambda: made.append(ensure_topics(settings))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 3 and made[0] == made[1] == made[2] == ensure_topics(settings)
    assert set(made[0]) == {topic.name for topic in TOPICS} and len(set(made[0].values())) == len(TOPICS)
    admin = settings.admin()
    assert topic_ids(admin, settings) == made[0]
    assert partitions(admin, settings) == settings.partitions == 4
    admin.close()


def test_existing_topics_decide_the_partition_count(settings: KafkaSettings) -> None:
    admin = settings.admin()
    spec = {"num_partitions": 2, "replication_factor": -1}
    admin.create_topics({settings.topic(FACTS): spec}, wait_for_metadata=True)
    ensure_topics(settings)
    assert partitions(admin, settings) == 2
    admin.close()


def test_unequal_partition_counts_are_refused(settings: KafkaSettings) -> None:
    admin = settings.admin()
    for name, count in ((FACTS, 2), (MEMORY_HITS, 3)):
        spec = {"num_partitions": count, "replication_factor": -1}
        admin.create_topics({settings.topic(name): spec}, wait_for_metadata=True)
    admin.close()
    with pytest.raises(TopicsMismatch, match=rf"{settings.topic(FACTS)} has 2.*{MEMORY_HITS} has 3"):
        ensure_topics(settings)


def hidden(settings: KafkaSettings, *names: str) -> Any:
    """An admin client of a cluster that has all topics, whose ACLs hide these from it."""
    shown = {"error_code": 0, "partitions": [{"leader_id": 1}] * 4, "topic_id": "id"}
    secret = {"error_code": 29, "partitions": [], "topic_id": None}
    return SimpleNamespace(
        describe_topics=lambda asked: [{"name": name} | (secret if name in names else shown) for name in asked],
        describe_configs=lambda *_, **__: {}, close=lambda: None,
    )  # fmt: skip


def test_topics_of_other_roles_may_be_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = KafkaSettings()
    others = [topic.name for topic in TOPICS if topic.name not in (FACTS, DEAD_LETTERS)]
    monkeypatch.setattr(KafkaSettings, "admin", lambda self: hidden(settings, *others))
    assert set(ensure_topics(settings, (FACTS, DEAD_LETTERS))) == {FACTS, DEAD_LETTERS}
    with pytest.raises(TopicsMismatch, match=r"may not describe the topic fact-encodings.*operating.md"):
        ensure_topics(settings)


def test_topics_are_created_with_the_sizes_that_the_cluster_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = KafkaSettings(max_record_bytes=8 * 1024 * 1024)
    admin, made = hidden(settings), dict[str, Any]()
    missing = {"error_code": 3, "partitions": [], "topic_id": None}
    shown = admin.describe_topics
    admin.describe_topics = lambda names: [
        topic if topic["name"] in made else topic | missing for topic in shown(names)
    ]
    admin.create_topics = lambda topics, **_: made.update(topics) or {"topics": []}
    monkeypatch.setattr(KafkaSettings, "admin", lambda self: admin)
    ensure_topics(settings)
    sizes = {name: int(topic["configs"]["max.message.bytes"]) >> 20 for name, topic in made.items()}
    assert sizes == {topic.name: 8 if topic.name == DEAD_LETTERS else 4 for topic in TOPICS}


def test_refused_creation_matters_only_for_own_topics(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = KafkaSettings()
    admin = hidden(settings)
    missing = {"error_code": 3, "partitions": [], "topic_id": None}
    shown = admin.describe_topics
    admin.describe_topics = lambda names: [
        topic | missing if topic["name"] == MEMORY_HITS else topic for topic in shown(names)
    ]
    refusal = {"name": MEMORY_HITS, "error_code": 29, "error_message": None}
    admin.create_topics = lambda *_, **__: {"topics": [refusal]}
    monkeypatch.setattr(KafkaSettings, "admin", lambda self: admin)
    assert set(ensure_topics(settings, (FACTS,))) == {FACTS}
    with pytest.raises(TopicsMismatch, match=r"memory-hits could not be created.*operating.md"):
        ensure_topics(settings)


@pytest.mark.parametrize(
    ("configs", "complaint"),
    [
        (
            {"memory-changelog": {"cleanup.policy": {"value": "delete"}}},
            "memory-changelog must have cleanup.policy",
        ),
        (
            {"dead-letters": {"max.message.bytes": {"value": "1048588"}}},
            "dead-letters must have max.message.bytes",
        ),
    ],
)
def test_topic_configs_that_lose_data_are_refused(configs: dict[str, Any], complaint: str) -> None:
    admin: Any = SimpleNamespace(describe_configs=lambda *args, **kwargs: {"topic": configs})
    with pytest.raises(TopicsMismatch, match=complaint):
        _check_configs(admin, KafkaSettings())


def test_clients_never_create_a_topic_implicitly(settings: KafkaSettings) -> None:
    consumer, admin = settings.consumer(), settings.admin()
    consumer.assign([TopicPartition(settings.topic("misspelt"), 0)])
    consumer.poll(timeout_ms=300)
    assert settings.topic("misspelt") not in admin.list_topics()
    assert consumer._cluster.config["allow_auto_create_topics"] is False
    consumer.close(autocommit=False)
    admin.close()


def test_a_topic_without_a_leader_cannot_be_written_to() -> None:
    found = {"error_code": 0, "partitions": [{"leader_id": 1}, {"leader_id": -1}]}
    admin: Any = SimpleNamespace(describe_topics=lambda asked: [found])
    with pytest.raises(TopicsMissing, match="replies: a partition has no leader"):
        writable_partitions(admin, "replies")
