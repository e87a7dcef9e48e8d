"""The generator: a live replica of the memory, and answers from it.

It reads every partition of the changelog from its beginning (Kafka Streams would say a global table), and shares the
requests with the other generators of its group. At least once: responses, hits and the generations' file are durable
before the requests' offsets are committed; a client keeps the first response of a request_id.
"""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kafka import TopicPartition
from kafka.errors import KafkaError

from pipeline import history
from pipeline.memory_lm import Generation, Job, MemoryLM
from pipeline.records import from_record
from schemas import topics
from schemas.changelog import PositionRecord, decode_changelog
from schemas.common import BadMessage, encode
from schemas.hits import Hit, MemoryHits
from schemas.request import GenerationRequest, decode_request, request_id_of
from schemas.response import GenerationResponse, ResponseDelta, ResponseError, Timings, Usage, UsedMemory
from workers import log
from workers.kafka import KafkaSettings, Producer, caught_up, check_readable, dead_letter, partition_for
from workers.loop import Done, Retry

BATCH = 16
WAIT_S = 5.0  # for a memory that has what the requests' `after` name; a batch waits once, not each request


@dataclass
class Pending:
    record: Any
    request_id: str
    request: GenerationRequest
    deltas: int = 0
    gone: bool = False  # its deadline passed while it was answered
    left: bool = False  # unanswered when the worker was told to stop: its offset is not committed


@dataclass
class Table:
    """The replica: the changelog applied to a MemoryLM.

    What cannot be taken is logged and left out. It is no dead letter here, for every generator reads the whole changelog
    at each start, and each would send the same letters again: the writer, which owns the changelog, does it once.
    """

    lm: MemoryLM
    consumer: Any
    partitions: int  # of the changelog: a record counts only where its namespace lives
    positions: dict[str, dict[str, int]] = field(default_factory=dict)
    foreign: int = 0  # memories of another model, which are not loaded

    def catch_up(self, limit_s: float) -> bool:
        """Reads what the changelog has; False when there is still more after `limit_s`."""
        end = time.monotonic() + limit_s
        while True:
            for records in self.consumer.poll(timeout_ms=50).values():
                for record in records:
                    self.take(record)
            if caught_up(self.consumer):
                return True
            if time.monotonic() > end:
                return False

    def take(self, record: Any) -> None:
        try:
            check_readable(record)
            told = decode_changelog(record.key, record.value)
            namespace, _, memory_id = (record.key or b"").decode("utf-8", "replace").partition("/")
            if partition_for(namespace, self.partitions) != record.partition:
                raise BadMessage("wrong-partition", f"the namespace {namespace!r} lives in another one")
            if isinstance(told, PositionRecord):
                self.positions[told.namespace] = told.positions
            elif told is not None:
                self.lm.put(from_record(told))
            else:
                self.lm.remove(namespace, memory_id)
        except (ValueError, BadMessage) as error:
            self.foreign += 1
            if self.foreign == 1:
                log.line("memory not loaded", error=str(error)[:200])

    def has(self, request: GenerationRequest) -> bool:
        return all(
            self.positions.get(namespace, {}).get(where, -1) >= offset
            for namespace, wanted in (request.after or {}).items()
            for where, offset in wanted.items()
        )


class GeneratorWorker:
    name = "generator"
    topics: Sequence[str] = (topics.GENERATION_REQUESTS,)

    def __init__(
        self, settings: KafkaSettings, data: Path, model: str, device: str, stop: threading.Event
    ) -> None:
        """`stop` ends an answer in the making, so that a long one does not keep the worker from stopping."""
        self._settings, self._data, self._stop = settings, data, stop
        self._lm = MemoryLM.load(model, device)
        self._producer: Producer | None = None
        self._table: Table | None = None

    def start(self, consumer: Any, topic_ids: dict[str, str]) -> None:
        self._producer = self._settings.producer()
        self._topic_id = topic_ids[topics.GENERATION_REQUESTS]
        replica = self._settings.consumer()
        topic = self._settings.topic(topics.MEMORY_CHANGELOG)
        self._partitions = len(
            consumer.partitions_for_topic(topic) or replica.partitions_for_topic(topic) or ()
        )
        replica.assign([TopicPartition(topic, p) for p in range(self._partitions)])
        replica.seek_to_beginning()
        self._table = Table(self._lm, replica, self._partitions)
        while not self._table.catch_up(10.0):
            log.line("catching up", memories=self._lm.count())

    def assigned(self, partitions: list[Any]) -> None: ...
    def revoked(self, partitions: list[Any]) -> None: ...

    def idle(self) -> None:
        if self._table:
            self._table.catch_up(0.2)

    def ready(self) -> dict[str, str | int]:
        return {"replica": self._lm.count()}

    def close(self) -> None:
        if self._table:
            self._table.consumer.close()
        if self._producer:
            self._producer.close()

    def process(self, records: dict[Any, list[Any]]) -> Done:
        assert self._producer is not None and self._table is not None
        flat = [record for partition in records.values() for record in partition][:BATCH]
        self._table.catch_up(1.0)
        pending = [p for record in flat if (p := self._accept(record))]
        until = time.monotonic() + WAIT_S
        ready = [p for p in pending if self._in_time(p, until)]
        rows = self._answer(ready) if ready else []
        if rows:
            first, last = flat[0], flat[-1]
            name = f"{self._topic_id}-{first.partition}-{first.offset}-{last.partition}-{last.offset}"
            try:
                history.append_generations(self._data, rows, name)
            except history.Unwritable as error:
                raise Retry(str(error)) from error
        self._producer.flush_or_raise()
        left = {(p.record.partition, p.record.offset) for p in ready if p.left}
        fields: dict[str, object] = {
            "requests": len(flat),
            "answered": len(rows),
            "memories": self._lm.count(),
        }
        return Done(fields, _next_offsets(flat, left))

    def _accept(self, record: Any) -> Pending | None:
        assert self._producer is not None
        try:
            check_readable(record)
            return Pending(record, *decode_request(record.key, record.value))
        except BadMessage as error:
            now = datetime.now(UTC)
            dead_letter(self._producer, record, error.reason, str(error), self.name, now)
            if request_id := request_id_of(record.key):
                self._fail(request_id, error.reason, str(error))
            return None

    def _in_time(self, pending: Pending, end: float) -> bool:
        """Waits for the memory that the request names, within its deadline and until `end`, by the clock that
        nobody sets."""
        assert self._table is not None
        request = pending.request
        if request.deadline:
            end = min(end, time.monotonic() + request.deadline.timestamp() - time.time())
        while not self._table.has(request) and time.monotonic() < end and not self._stop.is_set():
            self._table.catch_up(0.2)
        if request.deadline and time.time() > request.deadline.timestamp():
            self._fail(pending.request_id, "deadline", "the deadline passed before the answer was begun")
        elif not self._table.has(request):
            self._fail(
                pending.request_id, "behind", f"the memory has not reached `after` within {WAIT_S:.0f} s"
            )
        else:
            return True
        return False

    def _answer(self, pending: Sequence[Pending]) -> list[dict[str, Any]]:
        begun, started = time.time(), time.monotonic()

        def on_token(index: int, piece: str) -> bool:
            p = pending[index]
            if self._stop.is_set():
                p.left = True
                return False
            deadline = p.request.deadline
            if deadline and time.time() > deadline.timestamp():
                p.gone = True
                return False
            if p.request.stream:
                delta = ResponseDelta(request_id=p.request_id, index=p.deltas, delta=piece)
                self._respond(p.request_id, encode(delta))
                p.deltas += 1
            return True

        try:
            made = self._lm.answer([_job(p.request) for p in pending], on_token)
        except KafkaError:
            raise  # of a delta: the loop takes the batch again
        except Exception as error:  # a chat template may raise anything; one request must not fail the others
            for p in pending:
                p.deltas = 0  # a client takes each index once
            if len(pending) > 1:
                return [row for p in pending for row in self._answer([p])]
            log.line("request failed", error=str(error)[:200])
            self._fail(pending[0].request_id, "failed", str(error)[:300])
            return []
        took = (time.monotonic() - started) * 1000
        rows = []
        for p, generation in zip(pending, made, strict=True):
            if p.left:
                continue
            if p.gone:
                self._fail(p.request_id, "deadline", "the deadline passed while the answer was made")
                continue
            rows.append(self._tell(p, generation, begun * 1000 - p.record.timestamp, took))
        return rows

    def _tell(self, p: Pending, g: Generation, queued: float, took: float) -> dict[str, Any]:
        assert self._producer is not None
        used = [
            UsedMemory(
                memory_id=m.memory_id, namespace=m.namespace, text=m.text, category=m.category,
                score=m.score, gate=m.gate,
            )
            for m in g.memories
        ]  # fmt: skip
        response = GenerationResponse(
            request_id=p.request_id, text=g.text, memories=used,
            finish_reason="stop" if g.finish_reason == "stop" else "length",
            usage=Usage(prompt_tokens=g.prompt_tokens, completion_tokens=g.completion_tokens),
            timings=Timings(queued_ms=max(0.0, queued), generate_ms=took), tokens=g.tokens,
        )  # fmt: skip
        self._respond(p.request_id, encode(response))
        now = datetime.now(UTC)
        for namespace in dict.fromkeys(m.namespace for m in used if m.gate > 0):
            hits = [
                Hit(memory_id=m.memory_id, gate=m.gate)
                for m in used
                if m.namespace == namespace and m.gate > 0
            ]
            message = MemoryHits(namespace=namespace, request_id=p.request_id, answered_at=now, hits=hits)
            where = partition_for(namespace, self._partitions)
            self._producer.send(topics.MEMORY_HITS, encode(message), namespace.encode(), where)
        return {
            "request_id": p.request_id, "namespaces": p.request.namespaces, "prompt": _job(p.request).asked(),
            "text": g.text, "use_memory": p.request.use_memory, "memory_ids": [m.memory_id for m in used],
            "gates": [m.gate for m in used], "finish_reason": g.finish_reason, "error": None,
            "prompt_tokens": g.prompt_tokens, "completion_tokens": g.completion_tokens, "queued_ms": max(0.0, queued),
            "generate_ms": took, "answered_at": now, "partition": p.record.partition,
            "offset": p.record.offset,
        }  # fmt: skip

    def _fail(self, request_id: str, reason: str, message: str) -> None:
        error = ResponseError(reason=reason, message=message)
        response = GenerationResponse(request_id=request_id, finish_reason="error", error=error)
        self._respond(request_id, encode(response))

    def _respond(self, request_id: str, value: bytes) -> None:
        assert self._producer is not None
        self._producer.send(topics.GENERATION_RESPONSES, value, request_id.encode())


def _next_offsets(records: Sequence[Any], left: set[tuple[int, int]]) -> dict[Any, int]:
    """What to commit of each partition: up to its first (partition, offset) in `left`."""
    offsets: dict[Any, int] = {}
    ended = set()
    for record in records:
        where = TopicPartition(record.topic, record.partition)
        if (record.partition, record.offset) in left:
            ended.add(where)
        if where not in ended:
            offsets[where] = record.offset + 1
    return offsets


def _job(r: GenerationRequest) -> Job:
    messages = [{"role": m.role, "content": m.content} for m in r.messages] if r.messages else None
    return Job(
        r.prompt,
        messages,
        r.namespaces,
        r.use_memory,
        r.max_new_tokens,
        r.temperature,
        r.top_p,
        r.seed,
        r.stop,
        r.tokens,
    )
