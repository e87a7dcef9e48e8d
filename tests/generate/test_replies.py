"""Replies: to whom the generator answers, where, and with which headers."""

from typing import Any

import pytest

from schemas import topics
from schemas.common import BadMessage
from schemas.reply import return_address
from tests.generate.fakes import Sent, answers, records
from tests.helpers.spring import CORRELATION, SPRING
from workers.generate import reply_topics
from workers.generate.reply_topics import ReplyTopics
from workers.generate.worker import GeneratorWorker
from workers.kafka.config import KafkaSettings
from workers.kafka.errors import KafkaUnavailable, TopicsMissing
from workers.runtime.worker import Retry

ALLOWED = KafkaSettings(reply_topics="replies, answers")
PLACE = (0, 0, 0)


@pytest.fixture
def replying(worker: GeneratorWorker) -> GeneratorWorker:
    """A generator that may write to the topic replies, of six partitions."""
    worker._reply_topics = ReplyTopics(ALLOWED, 4, ask=lambda _, topic: 6)
    return worker


def placed(sent: Sent, topic: str) -> list[tuple[int | None, dict[str, bytes], Any]]:
    return [
        (*place, value) for (name, _, value), place in zip(sent, sent.places, strict=True) if name == topic
    ]


def test_spring_gets_its_reply_where_it_waits(replying: GeneratorWorker, sent: Sent) -> None:
    replying.process(records({"prompt": "one"}, keys=[None], headers=SPRING))
    ((partition, headers, value),) = placed(sent, "replies")
    assert partition == 5 and value["text"] == "one" and value["request_id"] == CORRELATION.hex()
    assert headers["kafka_correlationId"] == CORRELATION and headers["tenant"] == b"acme"
    assert "__TypeId__" not in headers and "factstream.error" not in headers
    assert not sent.of(topics.GENERATION_RESPONSES)
    ((_, hits),) = sent.of(topics.MEMORY_HITS)
    assert hits["request_id"] == CORRELATION.hex()


def test_an_error_has_its_reason_in_a_header(replying: GeneratorWorker, sent: Sent) -> None:
    replying.process(records(b"{", {"prompt": "unprepared"}, keys=[None, None], headers=SPRING))
    found = placed(sent, "replies")
    assert [headers["factstream.error"] for _, headers, _ in found] == [b"invalid-json", b"failed"]
    assert all(headers["kafka_correlationId"] == CORRELATION for _, headers, _ in found)


def test_a_requester_without_key_and_headers_is_answered(worker: GeneratorWorker, sent: Sent) -> None:
    batch = records({"prompt": "one"}, {"prompt": "two"}, keys=[None, b"no id"])
    ((_, found),) = batch.items()
    worker.process(batch)
    ids = [f"generation-requests:0:{n}:{record.timestamp}" for n, record in enumerate(found)]
    assert answers(sent) == {ids[0]: "one", ids[1]: "two"}


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ([("kafka_replyTopic", b"strangers")], "'strangers'"),
        ([("reply_to", b"facts")], "'facts'"),
        ([("reply_to", b"memory-changelog")], "'memory-changelog'"),
        ([("reply_to", b"\xff\x00")], "no answers are sent"),
        ([("kafka_replyTopic", b"replies"), ("kafka_replyPartition", b"\x00\x00\x00\x06")], "6 partitions"),
        ([("kafka_replyPartition", b"\xff\xff\xff\xff")], "4 partitions"),
    ],
)
def test_a_topic_that_is_not_allowed_is_refused(
    replying: GeneratorWorker, sent: Sent, headers: list[tuple[str, bytes]], said: str
) -> None:
    replying.process(records({"prompt": "one"}, headers=headers))
    ((_, given, value),) = placed(sent, topics.GENERATION_RESPONSES)
    assert value["error"]["reason"] == "reply-topic" == given["factstream.error"].decode()
    assert said in value["error"]["message"]
    assert [key for key, _ in sent.of(topics.DEAD_LETTERS)] == [b"r0"]


def test_a_partition_of_the_common_topic_may_be_asked_for(worker: GeneratorWorker, sent: Sent) -> None:
    worker.process(
        records(
            {"prompt": "one two", "stream": True}, headers=[("kafka_replyPartition", b"\x00\x00\x00\x03")]
        )
    )
    assert [partition for partition, _, _ in placed(sent, topics.GENERATION_RESPONSES)] == [3, 3, 3]


@pytest.mark.parametrize("header", ["kafka_correlationId", "reply_to"])
def test_a_requester_of_one_reply_gets_no_pieces(replying: GeneratorWorker, sent: Sent, header: str) -> None:
    replying.process(records({"prompt": "one two", "stream": True}, headers=[(header, b"answers")]))
    (value,) = (value for topic, _, value in sent if topic != topics.DEAD_LETTERS)
    assert value["error"]["message"].startswith("stream: ")


def test_the_cluster_is_asked_about_a_topic_at_most_once_in_a_while() -> None:
    asked: list[str] = []
    now = [0.0]

    def ask(_: KafkaSettings, topic: str) -> int:
        asked.append(topic)
        if len(asked) == 1:
            raise TopicsMissing(f"{topic}: UnknownTopicOrPartitionError")
        return 1

    checker = ReplyTopics(ALLOWED, 4, ask, lambda: now[0])
    address = return_address(b"r", [], *PLACE)
    for _ in range(3):
        with pytest.raises(BadMessage, match="replies: Unknown"):
            checker.checked(address, SPRING[:3])
    now[0] += reply_topics.KEPT_S
    assert checker.checked(address, SPRING[:3]).topic == "replies"
    assert asked == ["replies", "replies"]


def test_a_broker_that_is_away_is_no_reason_to_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    def away(_: KafkaSettings) -> Any:
        raise KafkaUnavailable("no broker answers")

    monkeypatch.setattr(KafkaSettings, "admin", away)
    with pytest.raises(Retry, match="no broker"):
        ReplyTopics(ALLOWED, 4).checked(return_address(b"r", [], *PLACE), SPRING)


@pytest.mark.parametrize("named", ["facts", "a b", "ok,p.dead-letters", "x" * 250])
def test_topics_of_our_own_are_no_reply_topics(named: str) -> None:
    with pytest.raises(ValueError, match="reply topics"):
        KafkaSettings(topic_prefix="p." if "p." in named else "", reply_topics=named)
