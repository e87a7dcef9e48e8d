"""The reply topics: which of them a request may have its answer sent to.

A reply topic is the requester's word, and the generator writes with its own rights. So only those of the setting
FACTSTREAM_REPLY_TOPICS are taken, and only while they can be written to: a topic that is missing would stop the worker.
"""

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace

from schemas import topics
from schemas.common import BadMessage
from schemas.reply import Headers, ReturnAddress, reply_place
from workers.kafka.admin import writable_partitions
from workers.kafka.config import KafkaSettings
from workers.kafka.errors import KafkaUnavailable, TopicsMissing
from workers.runtime.worker import Retry

KEPT_S = 30.0
"""How long what the cluster says about a topic is believed."""
REFUSED = "reply-topic"


class ReplyTopics:
    """The topics that the settings allow, and what the cluster last said about each."""

    def __init__(
        self,
        settings: KafkaSettings,
        partitions: int,
        ask: Callable[[KafkaSettings, str], int] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`partitions`: of generation-responses, which is always allowed. `ask` returns a topic's partition count."""
        self._settings, self._partitions = settings, partitions
        self._ask, self._clock = ask or _partitions, clock
        self._known: dict[str, tuple[float, int | str]] = {}  # at most one for each allowed topic

    def checked(self, address: ReturnAddress, headers: Headers) -> ReturnAddress:
        """The address with the topic and partition that the headers ask for. Raises BadMessage, Retry, KafkaError."""
        topic, partition = reply_place(headers)
        if topic is None or topic == self._settings.topic(topics.GENERATION_RESPONSES):
            topic, found = None, self._partitions
        elif topic in self._settings.replies:
            found = self._usable(topic)
        else:
            raise BadMessage(
                REFUSED, f"no answers are sent to {topic[:100]!r}; FACTSTREAM_REPLY_TOPICS allows topics"
            )
        if partition is not None and not 0 <= partition < found:
            raise BadMessage(
                REFUSED, f"the reply topic has {found} partitions, and none of number {partition}"
            )
        return replace(address, topic=topic, partition=partition)

    def _usable(self, topic: str) -> int:
        read_at, found = self._known.get(topic, (-KEPT_S, 0))
        if self._clock() - read_at >= KEPT_S:
            try:
                found = self._ask(self._settings, topic)
            except TopicsMissing as error:
                found = str(error)
            self._known[topic] = self._clock(), found
        if isinstance(found, str):
            raise BadMessage(REFUSED, f"no answer can be sent to the reply topic {found}")
        return found


def _partitions(settings: KafkaSettings, topic: str) -> int:
    try:
        with closing(settings.admin()) as admin:
            return writable_partitions(admin, topic)
    except KafkaUnavailable as error:
        raise Retry(str(error)) from error
