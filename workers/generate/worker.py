"""The generator worker: answers requests from a live replica of the memory.

Its replica is of the whole memory, or of the partitions whose requests it answers (FACTSTREAM_REPLICA). It shares the requests with the other generators of its group. Requests join a running batch as they come, and each is
answered as soon as it ends, so a short one never waits for a long one. Delivery is at least once: responses, hits and history rows are
durable before the requests' offsets are committed; a client keeps the first response of a request_id.
"""

from __future__ import annotations  # the types of modules that import torch are not loaded with this one

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.history.errors import Unwritable
from pipeline.history.layout import GENERATIONS_FOLDER
from pipeline.store.opening import store_at
from schemas import topics
from schemas.common import BadMessage
from schemas.reply import return_address, takes_one_reply
from schemas.request import decode_request
from workers.generate.inflight import InFlight, Pending
from workers.generate.lookups import look_up
from workers.generate.replica import Replica
from workers.generate.reply_topics import ReplyTopics
from workers.generate.responses import Responder, job
from workers.generate.routing import forward
from workers.kafka import offsets
from workers.kafka.config import KafkaSettings
from workers.kafka.consumer import check_readable
from workers.kafka.dead_letters import dead_letter
from workers.kafka.errors import KafkaError
from workers.kafka.producer import Producer
from workers.observe import log
from workers.runtime.loading import encoder_of, kept_objects
from workers.runtime.signals import Stop
from workers.runtime.worker import Done, Retry, Worker

if TYPE_CHECKING:
    from pipeline.fusion.row import Row
    from pipeline.memory_lm import MemoryLM

BATCH = 16  # requests that are answered together, unless a GPU has room for more
WAIT_S = 5.0  # how long a request waits for the facts that its `after` names
SLICE_S = 0.1  # how long it generates between two polls
SETTLE_S = 0.5  # how long ended answers are collected into one commit, which costs a file and a flush


class GeneratorWorker(Worker):
    name = "generator"
    uses: Sequence[str] = (
        topics.GENERATION_RESPONSES, topics.MEMORY_CHANGELOG, topics.MEMORY_HITS, topics.DEAD_LETTERS
    )  # fmt: skip
    topics: Sequence[str] = (topics.GENERATION_REQUESTS,)
    read_committed = True

    def __init__(self, settings: KafkaSettings, data: Path, model: str, device: str, stop: Stop) -> None:
        """`stop` interrupts the generation, so that a long answer does not keep the worker from stopping."""
        self._settings, self._store, self._stop = settings, store_at(data), stop
        self.sticky = settings.partitioned
        self._model, self._device = model, device
        self._producer: Producer | None = None
        self._replica: Replica | None = None
        self._consumer: Any = None
        self._inflight = InFlight()
        self._batch = BATCH

    @kept_objects()
    def load(self, alone: bool) -> None:
        encoder = encoder_of(self._model, self._device, log.line)
        from pipeline.memory_lm import MemoryLM

        self._lm: MemoryLM = MemoryLM(encoder)
        self._engine = self._lm.engine()
        self._batch = self._lm.encoder.backbone.batch_rows or BATCH

    def start(self, consumer: Any, topic_ids: dict[str, str]) -> None:
        self._consumer = consumer
        self._producer = self._settings.producer("gzip")
        self._topic_id = topic_ids[topics.GENERATION_REQUESTS]
        self._replica = Replica.open(self._lm, self._settings)
        self._responder = Responder(self._producer, self._replica.partitions)
        self._reply_topics = ReplyTopics(self._settings, self._replica.partitions)
        if not self._settings.partitioned:
            self._replica.follow(range(self._replica.partitions))
        while self._replica.loading and not self._replica.catch_up(10.0):
            log.line("catching up", memories=self._lm.count())

    def assigned(self, partitions: list[Any]) -> None:
        """Keeps the requests of these partitions, and leaves all others to other generators.

        The memories of new ones are loaded while those that are there answer on.
        """
        for row in self._inflight.keep(partitions):
            self._engine.cancel(row)
        if self._replica and self._settings.partitioned:
            self._replica.follow([tp.partition for tp in partitions])
            self._throttle()

    def idle(self) -> None:
        if self._replica:
            if self._replica.catch_up(0.2):
                self._replica.read_ahead()
            self._throttle()

    def ready(self) -> dict[str, str | int]:
        return {"replica": self._lm.count()}

    def close(self) -> None:
        if self._replica:
            self._replica.consumer.close()
        if self._producer:
            self._producer.close()

    @property
    def unfinished(self) -> bool:
        """Whether requests are in flight or memories are loaded: then the loop does not wait for new requests."""
        return bool(self._inflight) or self.loading

    @property
    def loading(self) -> bool:
        return bool(self._replica and self._replica.loading)

    def unread(self) -> dict[Any, int]:
        return offsets.unread(self._replica.consumer) if self._replica else {}

    def process(self, records: dict[Any, list[Any]]) -> Done:
        """Accepts these requests, and generates for a short while."""
        assert self._replica is not None
        try:
            rejected = sum(self._accept(record) for partition in records.values() for record in partition)
            pause_s = SLICE_S if self.loading else 1.0
            self._replica.catch_up(0.0 if self._inflight.running else pause_s)
            self._generate()
            self._throttle()
            idle = not self._inflight.running or self._stop.is_set()
            settled = self._settle(at_once=bool(rejected) or idle)
        except (KafkaError, Retry):
            self._engine = self._lm.engine()
            self._inflight.restart()
            raise
        if not settled and not rejected:
            return Done({}, {}, ahead=True)
        fields: dict[str, object] = {
            "requests": len(settled) + rejected,
            "answered": sum(p.answered for p in settled),
            "memories": self._lm.count(),
        }
        partitions = {p.partition for p in settled} | set(records)
        return Done(fields, self._inflight.next_offsets(partitions), ahead=True)

    def _accept(self, record: Any) -> bool:
        """Queues a request. Returns True if it is done with: it was sent on to its partition; or it is invalid, becomes a
        dead letter, and its sender gets an error."""
        assert self._producer is not None and self._replica is not None
        if not self._inflight.read(record):
            return False
        address = return_address(
            record.key, record.headers, record.partition, record.offset, record.timestamp
        )
        try:
            check_readable(record)
            address = self._reply_topics.checked(address, record.headers)
            request = decode_request(record.value)
            if request.stream and takes_one_reply(record.headers):
                raise BadMessage(
                    "invalid-field", "stream: this requester takes the first piece for the answer"
                )
            if self._settings.partitioned and forward(
                self._producer, record, address, request, self._replica.partitions
            ):
                return True
        except BadMessage as error:
            dead_letter(self._producer, record, error.reason, str(error), self.name, datetime.now(UTC))
            self._responder.fail(address, error.reason, str(error))
            return True
        self._inflight.add(Pending(record, address, request, time.monotonic() + WAIT_S))
        return False

    def _generate(self) -> None:
        """Admits and generates for `SLICE_S`, or until nothing is running."""
        end = time.monotonic() + SLICE_S
        while not self._stop.is_set():
            self._admit()
            if not self._inflight.running:
                break
            self._step()
            if time.monotonic() > end:
                break

    def _admit(self) -> None:
        """Submits waiting requests in their order, as long as the batch has room; those too late get an error."""
        assert self._replica is not None
        waiting, room = self._inflight.waiting, self._batch - len(self._inflight.running)
        chosen: list[Pending] = []
        for p in list(waiting) if self._engine.open else ():
            if len(chosen) >= room:
                break
            if p.is_late():
                self._end(p, "deadline", "the deadline passed before generation began")
            elif p.record.partition in self._replica.loading:
                p.wait_until = time.monotonic() + WAIT_S  # for its facts: the memories have no time limit
                continue
            elif self._replica.has(p.request):
                chosen.append(p)
            elif time.monotonic() < p.wait_until:
                continue
            else:
                self._end(p, "behind", f"the memory has not reached `after` within {WAIT_S:.0f} s")
            waiting.remove(p)
        if not chosen:
            return
        to_generate = [p for p in chosen if p.request.task == "generate"]
        rows = self._engine.submit([job(p.request) for p in to_generate]) if to_generate else []
        for p, row in zip(to_generate, rows, strict=True):
            p.started_epoch_s, p.started = time.time(), time.monotonic()
            self._inflight.running[row] = p
            if row.error:
                self._finish(row)
        for p in chosen:
            if p.request.task != "generate":
                self._look_up(p)

    def _look_up(self, p: Pending) -> None:
        p.started_epoch_s, p.started = time.time(), time.monotonic()
        try:
            response = look_up(self._lm, p.request, p.request_id)
        except Exception as error:  # of the model: one request must not fail the others
            self._fail(p, error)
        else:
            p.ended = time.monotonic()
            self._responder.respond(p, response)

    def _step(self) -> None:
        for row, text, finished in self._engine.step():
            p = self._inflight.running[row]
            if text and p.is_late():
                self._engine.cancel(row)
                del self._inflight.running[row]
                self._end(p, "deadline", "the deadline passed during generation")
                continue
            if text and p.request.stream:
                self._responder.delta(p, text, None if p.request.logprobs is None else row.take_tokens())
            if finished:
                self._finish(row)

    def _finish(self, row: Row) -> None:
        p = self._inflight.running.pop(row)
        if row.error:
            self._fail(p, row.error)
        else:
            p.ended = time.monotonic()
            self._responder.answer(p, self._lm.generation(row))

    def _fail(self, p: Pending, error: Exception) -> None:
        log.line("request failed", error=str(error)[:200])
        self._end(p, "failed", str(error)[:300])

    def _end(self, p: Pending, reason: str, message: str) -> None:
        self._responder.fail(p.address, reason, message)
        p.ended = time.monotonic()

    def _throttle(self) -> None:
        """Pauses the partitions whose memories are loaded, and all while a whole batch of requests waits; resumes others."""
        if not self._consumer:
            return
        loading = self._replica.loading if self._replica else set[int]()
        full = sum(p.record.partition not in loading for p in self._inflight.waiting) >= self._batch
        held = {tp for tp in self._consumer.assignment() if full or tp.partition in loading}
        paused = self._consumer.paused()
        if held - paused:
            self._consumer.pause(*held - paused)
        if paused - held:
            self._consumer.resume(*paused - held)

    def _settle(self, at_once: bool) -> list[Pending]:
        """Makes ended answers durable: history, then flush. Unless `at_once`, only when the oldest has waited `SETTLE_S`.

        Raises Retry, KafkaError.
        """
        assert self._producer is not None
        ended = self._inflight.ended()
        if not at_once and not (ended and time.monotonic() - min(p.ended for p in ended) > SETTLE_S):
            return []
        if rows := [p.history_row for p in ended if p.history_row]:
            first, last = rows[0], rows[-1]
            name = f"{self._topic_id}-{first['partition']}-{first['offset']}-{last['partition']}-{last['offset']}"
            try:
                self._store.add(GENERATIONS_FOLDER, rows, name)
            except Unwritable as error:
                raise Retry(str(error)) from error
        self._producer.flush_or_raise()
        self._inflight.settle(ended)
        return ended
