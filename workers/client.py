"""What an application does with the stream: publish facts, wait for their verdicts, ask. The command line calls these."""

import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from kafka import TopicPartition

from schemas import topics
from schemas.changelog import MAX_CHANGELOG_BYTES, Decided, PositionRecord
from schemas.common import decode, encode, parse_json, validate
from schemas.fact import Fact, Forget
from schemas.request import GenerationRequest
from schemas.response import GenerationResponse, ResponseDelta
from workers.kafka import KafkaSettings
from workers.topics import end_offsets, ensure_topics

PATIENCE_S = 60.0  # without any progress


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
) -> Published:
    """Sends (namespace, fact) pairs; with `wait`, returns when each is durably decided. Raises ClientError."""
    ids = ensure_topics(settings)
    done = Published()
    tail = _Tail(settings, (topics.MEMORY_CHANGELOG, topics.DEAD_LETTERS)) if wait else None
    waiting: set[tuple[int, int]] = set()
    producer = settings.producer()
    try:
        names: list[str] = []

        def flush() -> None:
            for namespace, sent in zip(names, producer.flush_or_raise(), strict=True):
                waiting.add((sent.partition, sent.offset))
                at = done.after.setdefault(namespace, {})
                where = f"{ids[topics.FACTS]}/{sent.partition}"
                at[where] = max(at.get(where, -1), sent.offset)
            names.clear()

        for namespace, fact in facts:
            producer.send(topics.FACTS, encode(fact), namespace.encode())
            names.append(namespace)
            done.sent += 1
            if len(names) >= 500:
                flush()
                progress(done.sent, 0)
        flush()
        progress(done.sent, 0)
        if tail:
            _await(tail, settings, ids[topics.FACTS], waiting, done, progress)
    finally:
        producer.close()
        if tail:
            tail.close()
    return done


def _await(
    tail: "_Tail",
    settings: KafkaSettings,
    topic_id: str,
    waiting: set[tuple[int, int]],
    done: Published,
    progress: Callable[[int, int], object],
) -> None:
    last = time.monotonic()
    while waiting:
        for record in tail.poll():
            if settings.short(record.topic) == topics.DEAD_LETTERS:
                said = {name: (value or b"").decode("utf-8", "replace") for name, value in record.headers}
                where = (int(said.get("partition", -1)), int(said.get("offset", -1)))
                if said.get("topic") == settings.topic(topics.FACTS) and where in waiting:
                    waiting.discard(where)
                    done.outcomes["dead-lettered"] += 1
                    last = time.monotonic()
            elif (record.key or b"").endswith(b"/") and record.value:
                position = decode(PositionRecord, record.value, MAX_CHANGELOG_BYTES)
                for one in position.decided:
                    if one.topic_id == topic_id and (one.partition, one.offset) in waiting:
                        waiting.discard((one.partition, one.offset))
                        done.outcomes[one.outcome] += 1
                        done.decided.append(one)
                        last = time.monotonic()
        progress(done.sent, done.sent - len(waiting))
        if time.monotonic() - last > PATIENCE_S:
            raise ClientError(
                f"{len(waiting)} facts undecided and no progress for {PATIENCE_S:.0f} s: do encoder and writer run?"
            )


def ask(
    settings: KafkaSettings, request: GenerationRequest, timeout_s: float = 120.0
) -> Iterator[ResponseDelta | GenerationResponse]:
    """Sends a request; yields its deltas and last its response. Raises ClientError."""
    ensure_topics(settings)
    request_id = uuid.uuid4().hex
    with closing(_Tail(settings, (topics.GENERATION_RESPONSES,))) as tail:
        producer = settings.producer()
        try:
            producer.send(topics.GENERATION_REQUESTS, encode(request), request_id.encode())
            producer.flush_or_raise()
        finally:
            producer.close()
        end, expected = time.monotonic() + timeout_s, 0
        while time.monotonic() < end:
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
                    yield validate(GenerationResponse, body)
                    return
    raise ClientError(f"no answer within {timeout_s:.0f} s: does a generator run?")


class _Tail:
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
