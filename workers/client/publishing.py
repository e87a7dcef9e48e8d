"""Publication of facts, with an optional wait until each of them is durably decided."""

import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, NamedTuple

from opentelemetry.trace import SpanKind

from schemas import topics
from schemas.changelog import Decided, PositionRecord, decode_changelog
from schemas.common import BadMessage, encode
from schemas.dead_letter import decode_headers
from schemas.fact import Conversation, Fact, FactMessage
from workers.client.errors import ClientError
from workers.client.positions import Positions
from workers.client.tail import Tail
from workers.kafka.admin import ensure_topics
from workers.kafka.config import KafkaSettings
from workers.kafka.errors import KafkaError, KafkaUnavailable
from workers.kafka.producer import Producer
from workers.observe import tracing

STALL_TIMEOUT_S = 60.0
"""How long `publish` waits while no further fact is decided."""
BROKER_CHECK_S = 5.0
"""Pause between checks that the broker still has the same topics, while no fact is decided."""
RETRIES = 5
BACKOFF_S = 0.5
"""Doubled with each failure, the first included; at most 8 s."""
DECIDED = (topics.MEMORY_CHANGELOG, topics.DEAD_LETTERS)
"""The topics that tell what became of a fact."""
FLUSH_EVERY = 500
"""Facts sent between two flushes."""


@dataclass
class Published:
    """The outcome of one call of `publish`."""

    sent: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    decided: list[Decided] = field(default_factory=list)
    verdicts: dict[tuple[str, str], Decided] = field(default_factory=dict)
    """The same for facts, by namespace and fact_id."""
    after: Positions = field(default_factory=dict)
    """The positions reached, for a request's `after`."""


def publish(
    settings: KafkaSettings,
    facts: Iterable[tuple[str, FactMessage]],
    wait: bool = False,
    progress: Callable[[int, int], object] = lambda sent, decided: None,
    clock: Callable[[], float] = time.time,
    parent: str | None = None,
) -> Published:
    """Sends (namespace, fact) pairs. With `wait`, returns once each of them is durably decided.

    A fact without a fact_id gets one, so that it counts once however often it is sent. With `wait`, facts
    that the broker did not confirm, or lost, are sent again. The Kafka timestamp of a fact is the time it was
    first sent, by `clock` (epoch seconds), so a fact that is sent again is no newer. `parent`: the trace context that the
    facts belong to; without one each has a trace of its own.

    Raises ClientError, KafkaError, KafkaUnavailable.
    """
    call = uuid.uuid4().hex
    pending = (
        PendingFact(namespace, _with_id(fact, f"{call}-{number}"), int(clock() * 1000))
        for number, (namespace, fact) in enumerate(facts)
    )
    failures = 0
    with closing(_Publication(settings, pending, wait, progress, parent)) as publication:
        while True:
            try:
                publication.send()
                if wait:
                    publication.wait()
                return publication.result
            except (KafkaError, KafkaUnavailable, _BrokerReset):
                failures += 1
                if not wait or not publication.connected or failures > RETRIES:
                    raise
                time.sleep(min(BACKOFF_S * 2**failures, 8.0))


def _with_id(fact: FactMessage, fact_id: str) -> FactMessage:
    if not isinstance(fact, Fact | Conversation) or fact.fact_id is not None:
        return fact
    return fact.model_copy(update={"fact_id": fact_id})


class PendingFact(NamedTuple):
    """A fact to send, and the timestamp that it keeps when it is sent again."""

    namespace: str
    fact: FactMessage
    timestamp_ms: int


class _BrokerReset(ClientError):
    """The broker restarted without the records that it had confirmed."""


class _Publication:
    """The facts of one call of `publish`: unsent, unconfirmed and undecided ones."""

    def __init__(
        self,
        settings: KafkaSettings,
        facts: Iterator[PendingFact],
        wait: bool,
        progress: Callable[[int, int], object],
        parent: str | None,
    ) -> None:
        self.result, self.connected, self._parent = Published(), False, parent
        self._settings, self._unsent, self._wait, self._progress = settings, facts, wait, progress
        self._names = (topics.FACTS, *(DECIDED if wait else ()))
        self._topic_ids: dict[str, str] = {}
        self._unconfirmed: list[PendingFact] = []
        self._undecided: dict[tuple[int, int], PendingFact] = {}  # by partition and offset
        self._last: tuple[int, int] | None = (
            None  # decided last: a conversation has several decisions in a row
        )
        self._producer: Producer | None = None
        self._tail: Tail | None = None

    def send(self) -> None:
        """Connects and sends every fact that the broker has not confirmed yet."""
        self._close_producer()
        topic_ids = ensure_topics(self._settings, self._names)
        self.connected = True  # from here on a failure may be temporary
        if self._wait and topic_ids != self._topic_ids:
            self._start_over()
        self._topic_ids = topic_ids
        producer = self._producer = self._settings.producer()
        self.result.sent -= len(self._unconfirmed)
        self._unsent, self._unconfirmed = chain(self._unconfirmed, self._unsent), []
        for pending in self._unsent:
            self._unconfirmed.append(pending)
            self.result.sent += 1
            value, key = encode(pending.fact), pending.namespace.encode()
            attributes = {"factstream.namespace": pending.namespace}
            trace = tracing.done("publish", self._parent, tracing.now(), attributes, kind=SpanKind.PRODUCER)
            producer.send(topics.FACTS, value, key, None, tracing.header(trace), pending.timestamp_ms)
            if len(self._unconfirmed) >= FLUSH_EVERY:
                self._confirm(producer)
        self._confirm(producer)

    def _start_over(self) -> None:
        """The topics are new: queues again all facts that were sent to the old ones, and tails the new ones."""
        if self._tail:
            self._tail.close()
        self._tail = Tail(self._settings, DECIDED)
        self._unconfirmed = [*self._undecided.values(), *self._unconfirmed]
        self._undecided.clear()
        self._last = None

    def _confirm(self, producer: Producer) -> None:
        confirmed = producer.flush_or_raise()
        if self._wait and ensure_topics(self._settings, self._names) != self._topic_ids:
            # The broker restarted meanwhile: these offsets may be on its old topics or on its new ones.
            raise _BrokerReset(f"the broker lost up to {len(self._undecided)} undecided facts")
        for pending, sent in zip(self._unconfirmed, confirmed, strict=True):
            if self._wait:
                self._undecided[sent.partition, sent.offset] = pending
            else:
                self._reached(pending.namespace, self._topic_ids[topics.FACTS], sent.partition, sent.offset)
        self._unconfirmed.clear()
        self._progress(self.result.sent, 0)

    def wait(self) -> None:
        """Returns once every fact is decided. Raises _BrokerReset, and ClientError if decisions stop."""
        assert self._tail is not None
        last_decision = last_check = time.monotonic()
        while self._undecided:
            if sum(self._take(record) for record in self._tail.poll()):
                last_decision = last_check = time.monotonic()
            self._progress(self.result.sent, self.result.sent - len(self._undecided))
            if time.monotonic() - last_decision > STALL_TIMEOUT_S:
                raise ClientError(
                    f"{len(self._undecided)} facts are undecided, and none was decided for {STALL_TIMEOUT_S:.0f} s: "
                    "are an encoder and a writer running?"
                )
            if time.monotonic() - last_check > BROKER_CHECK_S:
                with suppress(KafkaUnavailable):  # the same broker may come back
                    if ensure_topics(self._settings, self._names) != self._topic_ids:
                        raise _BrokerReset(f"the broker lost {len(self._undecided)} undecided facts")
                last_check = time.monotonic()

    def _take(self, record: Any) -> bool:
        """Notes the decisions in a record. Returns whether it decided an undecided fact of this call."""
        before = len(self._undecided)
        if self._settings.short(record.topic) == topics.DEAD_LETTERS:
            self._take_dead_letter(record)
        elif (record.key or b"").endswith(b"/"):  # the key of a namespace's positions
            self._take_positions(record)
        return len(self._undecided) < before

    def _take_dead_letter(self, record: Any) -> None:
        with suppress(BadMessage):  # another system's dead letter
            letter = decode_headers(record.headers)
            where = (letter["partition"], letter["offset"])
            if letter["topic"] == topics.FACTS and where in self._undecided:
                del self._undecided[where]
                self.result.outcomes["dead-lettered"] += 1

    def _take_positions(self, record: Any) -> None:
        try:
            positions = decode_changelog(record.key, record.value)
        except BadMessage:  # not written by a writer
            return
        if not isinstance(positions, PositionRecord):
            return
        for decided in positions.decided:
            where = (decided.partition, decided.offset)
            known = where in self._undecided or where == self._last
            if decided.topic_id == self._topic_ids[topics.FACTS] and known:
                pending = self._undecided.pop(where, None)
                fact = pending.fact if pending else None
                self._last = where
                self.result.outcomes[decided.outcome] += 1
                self.result.decided.append(decided)
                if isinstance(fact, Fact) and fact.fact_id is not None:
                    self.result.verdicts[positions.namespace, fact.fact_id] = decided
                self._reached(positions.namespace, decided.topic_id, decided.partition, decided.offset)

    def _reached(self, namespace: str, topic_id: str, partition: int, offset: int) -> None:
        offsets, log = self.result.after.setdefault(namespace, {}), f"{topic_id}/{partition}"
        offsets[log] = max(offsets.get(log, -1), offset)

    def _close_producer(self) -> None:
        if self._producer:
            self._producer.close()
            self._producer = None

    def close(self) -> None:
        self._close_producer()
        if self._tail:
            self._tail.close()
