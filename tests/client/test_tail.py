"""Clients that read from the topics' ends: one that cannot begin leaves no connection behind."""

import threading
from collections.abc import Callable

import pytest

from schemas.topics import FACTS
from tests.conftest import wait_until
from workers.client import tail
from workers.client.tail import Tail
from workers.client.watch import Observer
from workers.kafka.admin import ensure_topics
from workers.kafka.config import KafkaSettings
from workers.kafka.errors import KafkaTimeoutError, TopicsMissing


def clients() -> list[threading.Thread]:
    """The threads of open clients."""
    return [thread for thread in threading.enumerate() if thread.name.startswith("kafka-io")]


def no_ends(*_: object) -> None:
    raise KafkaTimeoutError("no answer")


@pytest.mark.parametrize(
    "begin", [lambda settings: Tail(settings, [FACTS]), Observer], ids=["tail", "observer"]
)
def test_no_client_is_left_where_the_ends_are_unknown(
    settings: KafkaSettings, monkeypatch: pytest.MonkeyPatch, begin: Callable[[KafkaSettings], object]
) -> None:
    ensure_topics(settings)
    before = clients()
    monkeypatch.setattr(tail, "end_offsets", no_ends)
    with pytest.raises(KafkaTimeoutError):
        begin(settings)
    wait_until(lambda: not set(clients()) - set(before))


def test_no_client_is_left_where_the_topics_are_missing(settings: KafkaSettings) -> None:
    before = clients()
    with pytest.raises(TopicsMissing):
        Observer(settings)
    wait_until(lambda: not set(clients()) - set(before))
