"""The generator: answers requests from a live replica of the memory (workers/generate/replica.py).

It shares the requests with the other generators of its group. Requests join a running batch as they come, and each is answered when it
ends, so that a short one never waits for a long one. At least once: responses, hits and the generations' file are durable
before the requests' offsets are committed; a client keeps the first response of a request_id.
"""

from __future__ import annotations  # names of modules that need a model's library are not read at run time

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.history import tables
from pipeline.history.errors import Unwritable
from schemas import topics
from schemas.common import BadMessage, encode
from schemas.hits import Hit, MemoryHits
from schemas.request import GenerationRequest, decode_request, request_id_of
from schemas.response import GenerationResponse, ResponseDelta, ResponseError, Timings, Usage, UsedMemory
from workers.generate.replica import Table
from workers.kafka import TopicPartition
from workers.kafka.config import KafkaSettings
from workers.kafka.consumer import check_readable
from workers.kafka.dead_letters import dead_letter
from workers.kafka.errors import KafkaError
from workers.kafka.partitioner import partition_for
from workers.kafka.producer import Producer
from workers.observe import log, metrics, tracing
from workers.runtime.signals import Stop
from workers.runtime.worker import Done, Retry, Worker

if TYPE_CHECKING:
    from pipeline.fusion.engine import Row
    from pipeline.memory_lm import Generation, Job, MemoryLM
    from pipeline.retrieve.hit import Hit as RetrievedHit

BATCH = 16  # requests that are answered together
WAIT_S = 5.0  # for a memory that has what a request's `after` names
SLICE_S = 0.1  # of answering, between two looks at the topics
SETTLE_S = 0.5  # that an answer's offset may wait for others while the batch goes on: each commit is a file and a flush


@dataclass(eq=False)
class Pending:
    """A request in hand: it waits, or is being answered, or has ended and is not durable yet."""

    record: Any
    request_id: str
    request: GenerationRequest
    until: float  # monotonic: how long it waits for what its `after` names
    hits: Sequence[RetrievedHit] = ()
    begun: float = 0.0  # time
    started: float = 0.0  # monotonic
    ended: float = 0.0  # monotonic; 0 until then
    answer: dict[str, Any] | None = None  # the row for the generations' file, if it was answered
    deltas: int = 0
    alone: bool = False  # a batch that it was in failed: it is answered by itself
    gone: bool = False  # its deadline passed while it was answered
    left: bool = False  # its partition went to another generator, which answers it

    @property
    def where(self) -> TopicPartition:
        return TopicPartition(self.record.topic, self.record.partition)


class GeneratorWorker(Worker):
    name = "generator"
    topics: Sequence[str] = (topics.GENERATION_REQUESTS,)

    def __init__(self, settings: KafkaSettings, data: Path, model: str, device: str, stop: Stop) -> None:
        """`stop` ends an answer in the making, so that a long one does not keep the worker from stopping."""
        self._settings, self._data, self._stop = settings, data, stop
        self._model, self._device = model, device
        self._producer: Producer | None = None
        self._table: Table | None = None
        self._consumer: Any = None
        self._open: dict[tuple[TopicPartition, int], Pending] = {}  # what is in hand, by partition and offset
        self._waiting: deque[Pending] = deque()
        self._running: dict[Row, Pending] = {}
        self._read: dict[TopicPartition, int] = {}  # the next offset of each partition

    def load(self, alone: bool) -> None:
        from pipeline.memory_lm import MemoryLM

        self._lm: MemoryLM = MemoryLM.load(self._model, self._device)
        self._batch = self._lm.batch()

    def start(self, consumer: Any, topic_ids: dict[str, str]) -> None:
        self._consumer = consumer
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

    def assigned(self, partitions: list[Any]) -> None:
        """What is in hand goes on where its partition came back, and is left to the others where it did not."""
        for (where, offset), p in list(self._open.items()):
            if where not in partitions:
                p.left = True
                del self._open[where, offset]
        self._waiting = deque(p for p in self._waiting if not p.left)

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

    @property
    def unfinished(self) -> bool:
        """Whether requests are in hand: then the loop does not wait for new ones."""
        return bool(self._open)

    def process(self, records: dict[Any, list[Any]]) -> Done:
        """Takes these requests in, and answers what is in hand for a short while."""
        assert self._table is not None
        try:
            bad = self._take_in([record for partition in records.values() for record in partition])
            self._table.catch_up(1.0 if not self._running else 0.0)
            end = time.monotonic() + SLICE_S
            while not self._stop.is_set():
                self._admit()
                if not self._running:
                    break
                self._step()
                if time.monotonic() > end:
                    break
            self._hold_back()
            settled = self._settle(at_once=bool(bad) or not self._running or self._stop.is_set())
        except (KafkaError, Retry):
            self._again()
            raise
        if not settled and not bad:
            return Done({}, {}, ahead=True)
        answered = sum(p.answer is not None for p in settled)
        fields: dict[str, object] = {
            "requests": len(settled) + bad,
            "answered": answered,
            "memories": self._lm.count(),
        }
        touched = {p.where for p in settled} | set(records)
        return Done(fields, self._next_offsets(touched), ahead=True)

    def _take_in(self, records: Sequence[Any]) -> int:
        """Puts the records in line; one that is in hand already, and is read again, keeps its place. How many are bad."""
        bad = 0
        for record in records:
            where = TopicPartition(record.topic, record.partition)
            self._read[where] = record.offset + 1
            if (where, record.offset) in self._open:
                continue
            if pending := self._accept(record):
                self._open[where, record.offset] = pending
                self._waiting.append(pending)
            else:
                bad += 1
        return bad

    def _admit(self) -> None:
        """Lets those who wait join the batch, in the order in which they came, as far as there is room."""
        if not self._batch.open or any(p.alone for p in self._running.values()):
            return
        chosen: list[Pending] = []
        for p in list(self._waiting):
            if len(self._running) + len(chosen) >= BATCH or (p.alone and (self._running or chosen)):
                break
            ready = self._in_time(p)
            if ready is None:
                continue
            self._waiting.remove(p)
            if ready:
                chosen.append(p)
            if p.alone:
                break
        if chosen:
            self._answer(chosen)

    def _hold_back(self) -> None:
        """Reads no further requests while enough wait."""
        if self._consumer and len(self._waiting) >= BATCH:
            self._consumer.pause(*self._consumer.assignment())
        elif self._consumer and (paused := self._consumer.paused()):
            self._consumer.resume(*paused)

    def _settle(self, at_once: bool) -> list[Pending]:
        """Makes what was answered durable, now or when the oldest of it has waited long enough."""
        assert self._producer is not None
        ended = [p for p in self._open.values() if p.ended]
        if not at_once and not (ended and time.monotonic() - min(p.ended for p in ended) > SETTLE_S):
            return []
        rows = [p.answer for p in ended if p.answer]
        if rows:
            first, last = rows[0], rows[-1]
            name = f"{self._topic_id}-{first['partition']}-{first['offset']}-{last['partition']}-{last['offset']}"
            try:
                tables.append_generations(self._data, rows, name)
            except Unwritable as error:
                raise Retry(str(error)) from error
        self._producer.flush_or_raise()
        for p in ended:
            del self._open[p.where, p.record.offset]
        return ended

    def _next_offsets(self, partitions: set[TopicPartition]) -> dict[TopicPartition, int]:
        """What to commit of each: up to its first request that is still in hand."""
        first: dict[TopicPartition, int] = {}
        for where, offset in self._open:
            first[where] = min(offset, first.get(where, offset))
        return {where: first.get(where, self._read[where]) for where in partitions}

    def _again(self, alone: bool = False) -> None:
        """All that is in hand is answered anew; `alone`: what ran, each by itself, for one of them is at fault."""
        anew = [p for p in (self._running if alone else self._open).values() if not p.left]
        for p in anew:
            p.deltas, p.ended, p.answer, p.alone = 0, 0.0, None, p.alone or alone
        self._waiting = deque([*anew, *(self._waiting if alone else ())])
        self._running, self._batch = {}, self._lm.batch()

    def _accept(self, record: Any) -> Pending | None:
        assert self._producer is not None
        try:
            check_readable(record)
            return Pending(record, *decode_request(record.key, record.value), time.monotonic() + WAIT_S)
        except BadMessage as error:
            now = datetime.now(UTC)
            dead_letter(self._producer, record, error.reason, str(error), self.name, now)
            if request_id := request_id_of(record.key):
                self._fail(request_id, error.reason, str(error))
            return None

    def _in_time(self, pending: Pending) -> bool | None:
        """Whether the memory has what the request names: None while it may still come; when it is too late, its sender is
        told. By the clock that nobody sets."""
        assert self._table is not None
        request = pending.request
        if request.deadline and time.time() > request.deadline.timestamp():
            self._fail(pending.request_id, "deadline", "the deadline passed before the answer was begun")
        elif self._table.has(request):
            return True
        elif time.monotonic() < pending.until:
            return None
        else:
            self._fail(
                pending.request_id, "behind", f"the memory has not reached `after` within {WAIT_S:.0f} s"
            )
        pending.ended = time.monotonic()
        return False

    def _answer(self, pending: Sequence[Pending]) -> None:
        """Finds their memories, and lets them join the batch. A request that cannot be begun fails alone."""
        try:
            made = self._lm.prepare([_job(p.request) for p in pending])
        except Exception as error:  # a chat template may raise anything
            if len(pending) == 1:
                self._failed(pending[0], error)
            else:
                for p in pending:
                    self._answer([p])
            return
        for p, (row, hits) in zip(pending, made, strict=True):
            row.send = partial(self._piece, p)
            p.hits, p.begun, p.started = hits, time.time(), time.monotonic()
            self._running[row] = p
        self._guarded(lambda: self._batch.join([row for row, _ in made]))

    def _step(self) -> None:
        self._guarded(self._batch.step)

    def _guarded(self, do: Callable[[], list[Row]]) -> None:
        """Does a step of the batch and answers those that ended. One request must not fail the others: when the step
        fails, each is tried by itself, and the one at fault fails."""
        try:
            ended = do()
        except KafkaError:
            raise  # of a delta: the loop takes all of it again
        except Exception as error:
            only = len(self._running) == 1
            self._again(alone=True)
            if only and self._waiting and self._waiting[0].alone:
                self._failed(self._waiting.popleft(), error)
            return
        for row in ended:
            p = self._running.pop(row)
            if p.left:
                continue
            p.ended = time.monotonic()
            if p.gone:
                self._fail(p.request_id, "deadline", "the deadline passed while the answer was made")
            else:
                took = (p.ended - p.started) * 1000
                generation = self._lm.made(row, p.hits)
                p.answer = self._tell(p, generation, p.begun * 1000 - p.record.timestamp, took)

    def _failed(self, p: Pending, error: Exception) -> None:
        log.line("request failed", error=str(error)[:200])
        self._fail(p.request_id, "failed", str(error)[:300])
        p.ended = time.monotonic()

    def _piece(self, p: Pending, piece: str) -> bool:
        """Takes a piece of an answer; False when it is to end."""
        deadline = p.request.deadline
        p.gone = bool(deadline and time.time() > deadline.timestamp())
        if p.gone or p.left:
            return False
        if p.request.stream:
            delta = ResponseDelta(request_id=p.request_id, index=p.deltas, delta=piece)
            self._respond(p.request_id, encode(delta))
            p.deltas += 1
        return True

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
        said = tracing.where(p.record) | {
            "factstream.request_id": p.request_id,
            "factstream.memories": sum(m.gate > 0 for m in used),
            "factstream.completion_tokens": g.completion_tokens,
        }
        since = tracing.now() - int(took * 1e6)
        headers = tracing.header(tracing.done("generate", tracing.of(p.record.headers), since, said))
        self._respond(p.request_id, encode(response), headers)
        metrics.answered(g, queued, took)
        now = datetime.now(UTC)
        for namespace in dict.fromkeys(m.namespace for m in used if m.gate > 0):
            hits = [
                Hit(memory_id=m.memory_id, gate=m.gate)
                for m in used
                if m.namespace == namespace and m.gate > 0
            ]
            message = MemoryHits(namespace=namespace, request_id=p.request_id, answered_at=now, hits=hits)
            where = partition_for(namespace, self._partitions)
            self._producer.send(topics.MEMORY_HITS, encode(message), namespace.encode(), where, headers)
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
        metrics.ANSWERS.labels("error").inc()
        self._respond(request_id, encode(response))

    def _respond(self, request_id: str, value: bytes, headers: tracing.Headers | None = None) -> None:
        assert self._producer is not None
        self._producer.send(topics.GENERATION_RESPONSES, value, request_id.encode(), headers=headers or ())


def _job(r: GenerationRequest) -> Job:
    from pipeline.memory_lm import Job

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
