"""What an application does with the stream: publish facts, wait for their verdicts, ask. The command line calls these."""

import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, NamedTuple

from kafka import TopicPartition
from kafka.errors import KafkaError
from opentelemetry.trace import SpanKind

from schemas import topics
from schemas.changelog import MAX_CHANGELOG_BYTES, Decided, PositionRecord, decode_changelog
from schemas.common import BadMessage, encode, parse_json, validate
from schemas.fact import Fact, Forget
from schemas.request import GenerationRequest
from schemas.response import GenerationResponse, ResponseDelta
from workers.client.positions import Positions
from workers.kafka.admin import end_offsets, ensure_topics
from workers.kafka.clients import KafkaSettings, KafkaUnavailable, Producer
from workers.observe import tracing

PATIENCE_S = 60.0  # without any progress
QUIET_S = (
    5.0  # without any progress: whether the broker is still the one that has the facts is asked so often
)
RETRIES = 5
BACKOFF_S = 0.5  # doubled with each failure


class ClientError(RuntimeError):
    """What was asked for did not happen in time; the text says what to look at."""


@dataclass
class Published:
    sent: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    decided: list[Decided] = field(default_factory=list)
    after: dict[str, dict[str, int]] = field(default_factory=dict)  # for a request's `after`


def publish(
    settings: KafkaSettings,
    facts: Iterable[tuple[str, Fact | Forget]],
    wait: bool = False,
    progress: Callable[[int, int], object] = lambda sent, decided: None,
    clock: Callable[[], float] = time.time,
) -> Published:
    """Sends (namespace, fact) pairs. Raises ClientError, KafkaError, KafkaUnavailable.

    A fact that has no fact_id gets one, of this call and its place in it: however often it is sent, it is decided once.
    With `wait`, returns when each is durably decided, and sends again what the broker did not confirm or has lost.
    The Kafka timestamp is when a fact was first sent, by `clock` (epoch seconds): sent again, it is no newer.
    """
    call = uuid.uuid4().hex
    named = (
        Outgoing(namespace, _named(fact, f"{call}-{n}"), int(clock() * 1000))
        for n, (namespace, fact) in enumerate(facts)
    )
    failures = 0
    with closing(_Sending(settings, named, wait, progress)) as sending:
        while True:
            try:
                sending.send()
                if wait:
                    sending.wait()
                return sending.done
            except (KafkaError, KafkaUnavailable, _Lost):
                failures += 1
                if not wait or not sending.begun or failures > RETRIES:
                    raise
                time.sleep(min(BACKOFF_S * 2**failures, 8.0))


def _named(fact: Fact | Forget, fact_id: str) -> Fact | Forget:
    if isinstance(fact, Forget) or fact.fact_id is not None:
        return fact
    return fact.model_copy(update={"fact_id": fact_id})


class Outgoing(NamedTuple):
    namespace: str
    fact: Fact | Forget
    timestamp_ms: int


class _Lost(ClientError):
    """The broker was started anew and has not kept what it had confirmed."""


class _Sending:
    """The facts of one call of `publish`: which of them the broker has confirmed, and which of those are decided."""

    def __init__(
        self,
        settings: KafkaSettings,
        facts: Iterator[Outgoing],
        wait: bool,
        progress: Callable[[int, int], object],
    ) -> None:
        self.done, self.begun = Published(), False
        self._settings, self._facts, self._wait, self._progress = settings, facts, wait, progress
        self._ids: dict[str, str] = {}
        self._unconfirmed: list[Outgoing] = []
        self._undecided: dict[tuple[int, int], Outgoing] = {}
        self._producer: Producer | None = None
        self._tail: Tail | None = None

    def send(self) -> None:
        """Connects, and sends what is not confirmed yet."""
        self._close_producer()
        ids = ensure_topics(self._settings)
        self.begun = True  # there is a broker: what fails from here on may pass
        if self._wait and ids != self._ids:
            if self._tail:
                self._tail.close()
            self._tail = Tail(self._settings, (topics.MEMORY_CHANGELOG, topics.DEAD_LETTERS))
            self._unconfirmed = [*self._undecided.values(), *self._unconfirmed]
            self._undecided.clear()
        self._ids = ids
        producer = self._producer = self._settings.producer()
        self.done.sent -= len(self._unconfirmed)
        self._facts, self._unconfirmed = chain(self._unconfirmed, self._facts), []
        for one in self._facts:
            self._unconfirmed.append(one)
            self.done.sent += 1
            value, key = encode(one.fact), one.namespace.encode()
            said = {"factstream.namespace": one.namespace}
            trace = tracing.done("publish", None, tracing.now(), said, kind=SpanKind.PRODUCER)
            producer.send(topics.FACTS, value, key, None, tracing.header(trace), one.timestamp_ms)
            if len(self._unconfirmed) >= 500:
                self._confirm(producer)
        self._confirm(producer)

    def _confirm(self, producer: Producer) -> None:
        confirmed = producer.flush_or_raise()
        if self._wait and ensure_topics(self._settings) != self._ids:  # these offsets may be of either broker
            raise _Lost(f"the broker lost up to {len(self._undecided)} undecided facts")
        for one, sent in zip(self._unconfirmed, confirmed, strict=True):
            if self._wait:
                self._undecided[sent.partition, sent.offset] = one
            else:
                self._after(one.namespace, self._ids[topics.FACTS], sent.partition, sent.offset)
        self._unconfirmed.clear()
        self._progress(self.done.sent, 0)

    def wait(self) -> None:
        """Until each is decided. Raises _Lost, and ClientError where nothing goes on."""
        assert self._tail is not None
        last = asked = time.monotonic()
        while self._undecided:
            if sum(self._take(record) for record in self._tail.poll()):
                last = asked = time.monotonic()
            self._progress(self.done.sent, self.done.sent - len(self._undecided))
            if time.monotonic() - last > PATIENCE_S:
                raise ClientError(
                    f"{len(self._undecided)} facts undecided and no progress for {PATIENCE_S:.0f} s: "
                    "do encoder and writer run?"
                )
            if time.monotonic() - asked > QUIET_S:
                with suppress(KafkaUnavailable):  # it may come back, as it was
                    if ensure_topics(self._settings) != self._ids:
                        raise _Lost(f"the broker lost {len(self._undecided)} undecided facts")
                asked = time.monotonic()

    def _take(self, record: Any) -> bool:
        """Whether the record tells what became of a fact of ours."""
        before, done = len(self._undecided), self.done
        if self._settings.short(record.topic) == topics.DEAD_LETTERS:
            said = {name: (value or b"").decode("utf-8", "replace") for name, value in record.headers}
            with suppress(KeyError, ValueError):  # it is not one of ours
                where = (int(said["partition"]), int(said["offset"]))
                if said["topic"] == topics.FACTS and where in self._undecided:
                    del self._undecided[where]
                    done.outcomes["dead-lettered"] += 1
        elif (record.key or b"").endswith(b"/"):
            try:
                position = decode_changelog(record.key, record.value)
            except BadMessage:  # not the writer's: it concerns nobody who waits
                return False
            if not isinstance(position, PositionRecord):
                return False
            for one in position.decided:
                where = (one.partition, one.offset)
                if one.topic_id == self._ids[topics.FACTS] and where in self._undecided:
                    del self._undecided[where]
                    done.outcomes[one.outcome] += 1
                    done.decided.append(one)
                    self._after(position.namespace, one.topic_id, one.partition, one.offset)
        return len(self._undecided) < before

    def _after(self, namespace: str, topic_id: str, partition: int, offset: int) -> None:
        at, where = self.done.after.setdefault(namespace, {}), f"{topic_id}/{partition}"
        at[where] = max(at.get(where, -1), offset)

    def _close_producer(self) -> None:
        if self._producer:
            self._producer.close()
            self._producer = None

    def close(self) -> None:
        self._close_producer()
        if self._tail:
            self._tail.close()


def ask(
    settings: KafkaSettings,
    request: GenerationRequest,
    recent: Positions | None = None,
    timeout_s: float = 120.0,
    going: Callable[[], bool] = lambda: True,
) -> Iterator[ResponseDelta | GenerationResponse]:
    """Sends a request; yields its deltas and last its response. Raises ClientError. Ends early where not `going`.

    `recent` are positions for a request without `after`: those of them count that are of this cluster's topics.
    """
    topic_id = ensure_topics(settings)[topics.FACTS]
    if recent and request.after is None:
        ours = {
            namespace: {log: offset for log, offset in logs.items() if log.startswith(f"{topic_id}/")}
            for namespace, logs in recent.items()
        }
        request = request.model_copy(update={"after": ours})
    request_id = uuid.uuid4().hex
    span = tracing.begin("request", kind=SpanKind.CLIENT, attributes={"factstream.request_id": request_id})
    with closing(Tail(settings, (topics.GENERATION_RESPONSES,))) as tail, tracing.ended(span):
        producer = settings.producer()
        try:
            headers = tracing.header(tracing.context_of(span))
            producer.send(topics.GENERATION_REQUESTS, encode(request), request_id.encode(), headers=headers)
            producer.flush_or_raise()
        finally:
            producer.close()
        end, expected = time.monotonic() + timeout_s, 0
        while time.monotonic() < end:
            if not going():
                return
            for record in tail.poll():
                if record.key != request_id.encode():
                    continue
                body = parse_json(record.value, MAX_CHANGELOG_BYTES)
                if "delta" in body:
                    delta = validate(ResponseDelta, body)
                    if delta.index == expected:  # one that a restarted generator sends again comes once
                        expected += 1
                        yield delta
                else:
                    response = validate(GenerationResponse, body)
                    if response.error:
                        tracing.fail(span, response.error.reason)
                    yield response
                    return
    raise ClientError(f"no answer within {timeout_s:.0f} s: does a generator run?")


class Tail:
    """Reads what comes to the end of topics from now on."""

    def __init__(self, settings: KafkaSettings, names: Iterable[str]) -> None:
        self._consumer: Any = settings.consumer()
        parts = [
            TopicPartition(settings.topic(name), p)
            for name in names
            for p in sorted(self._consumer.partitions_for_topic(settings.topic(name)) or ())
        ]
        ends = end_offsets(self._consumer, parts)
        self._consumer.assign(parts)  # the question about the ends has used the assignment
        for part, offset in ends.items():
            self._consumer.seek(part, offset)

    def poll(self) -> list[Any]:
        return [record for records in self._consumer.poll(timeout_ms=100).values() for record in records]

    def close(self) -> None:
        self._consumer.close()
