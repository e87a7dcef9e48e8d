"""The loop that the workers share: poll, process, commit; rebalances, retries, readiness and a clean end.

It knows when a worker is called, and nothing of what it does. A worker makes its batch durable and calls
`Producer.flush_or_raise` in `process`; the offsets are committed after that, so a crash means the batch
comes again. All methods of a worker run on the main thread. Heartbeats to the group run on the client's own
thread meanwhile.
"""

import json
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from kafka import ConsumerRebalanceListener, KafkaConsumer, OffsetAndMetadata, TopicPartition
from kafka.errors import (
    CommitFailedError,
    IllegalGenerationError,
    KafkaError,
    RebalanceInProgressError,
    UnknownMemberIdError,
)

from pipeline.history.errors import HistoryError
from pipeline.model.errors import ModelError
from workers.kafka.admin import TopicsMismatch, TopicsMissing, ensure_topics, topic_ids
from workers.kafka.clients import KafkaSettings, KafkaUnavailable
from workers.observe import log, metrics

READY_FD = "FACTSTREAM_READY_FD"
"""Names the pipe to which a supervised worker writes that it is ready."""
ALONE = "FACTSTREAM_ALONE"
"""Set for a worker whose group nobody else is in: it may join before it can work."""
MAX_FAILURES = 10
"""Failures in a row after which the process ends, about a minute after the first."""
IDLE_CHECK_S = 2.0
JOIN_POLL_MS = 100
MEASURE_S = 1.0
COMMIT_TIMEOUT_MS = 4000
LEAVE_TIMEOUT_MS = 2000
_GROUP_MOVED_ON = (CommitFailedError, RebalanceInProgressError, UnknownMemberIdError, IllegalGenerationError)


class Retry(Exception):
    """Raised by a worker that cannot finish a batch as things are: it is to drop its state and take it
    again."""


class TopicsReplaced(RuntimeError):
    """The cluster's topics are not those that the worker started with: offsets it knows mean nothing now."""


@dataclass(frozen=True)
class Done:
    """A batch is durable. `fields` go on its log line. `offsets` are the next ones to read, for a worker
    that did less than the whole batch; the rest of it is read again, or, with `ahead`, is in the worker's hands, and
    `offsets` are all that is committed."""

    fields: dict[str, object]
    offsets: dict[TopicPartition, int] | None = None
    ahead: bool = False


class Worker(Protocol):
    """What the loop runs. `topics` are short names; a TopicPartition carries the full one.

    One that goes on with earlier records has `unfinished` too: while it is true, `process` is called again at once,
    without records if there are no new ones. One that has much to do before it knows its partitions has
    `load` too, called once, before `start`, with whether all partitions will be its own.
    """

    name: str
    topics: Sequence[str]

    def start(self, consumer: KafkaConsumer, topic_ids: dict[str, str]) -> None:
        """Once, before the group is joined, with the ids of all topics by short name: they hold for this
        process."""

    def assigned(self, partitions: list[TopicPartition]) -> None:
        """These partitions are ours now. May take long."""

    def revoked(self, partitions: list[TopicPartition]) -> None:
        """These are ours no more; they may come back at once, or after another worker had them."""

    def process(self, records: dict[TopicPartition, list[Any]]) -> Done:
        """Do the batch and make it durable, in a few seconds. Raises Retry."""

    def idle(self) -> None:
        """A poll brought nothing, and the group is joined."""

    def ready(self) -> dict[str, str | int]:
        """After the first assignment: facts for the supervisor's ready line."""

    def close(self) -> None: ...


def run(
    worker: Worker,
    settings: KafkaSettings,
    data: Path,
    stop: threading.Event | None = None,
    poll_ms: int = 500,
    max_records: int = 500,
    sleep: Callable[[float], object] | None = None,
) -> int:
    """Run a worker until it is told to stop: 0, or until it cannot go on: 1, with one clear line in the log.

    SIGTERM and SIGINT (and `stop`) let the running batch end and be committed, then the group is left.
    `sleep` is how a failure is waited out; it must return early when `stop` is set (the default does).
    """
    stop = stop or threading.Event()
    handlers = {}
    loop = None
    try:
        loop = _Loop(worker, settings, data, poll_ms, max_records)
        loop.load()
        # Until here a signal ends the process at once: nothing is in hand.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                handlers[number] = signal.signal(number, lambda *_: stop.set())
        loop.start()
        failures = 0
        while not stop.is_set():
            try:
                if failures:
                    loop.take_again()
                loop.turn()
                loop.measure()
                failures = 0
            except (KafkaError, Retry, TopicsMissing) as error:
                failures += 1
                metrics.RETRIES.labels(worker.name).inc()
                metrics.turned(ready=False)
                if isinstance(error, KafkaError) and not error.retriable:
                    raise
                if failures > MAX_FAILURES:
                    raise KafkaUnavailable(
                        f"gave up on {settings.bootstrap} after {failures} failures; the last: "
                        f"{_reason(error)}"
                    ) from error
                log.line("retry", log.WARNING, failures=failures, reason=_reason(error))
                (sleep or stop.wait)(min(0.25 * 2**failures, 8.0))
        log.line("stopped")
        return 0
    except (
        KafkaUnavailable, TopicsMissing, TopicsMismatch, TopicsReplaced, HistoryError, ModelError
    ) as error:  # fmt: skip
        log.line("failed", log.ERROR, reason=str(error))
        return 1
    except OSError as error:
        if error.filename is None:  # not of a file: a traceback says more
            log.line("failed", log.ERROR, error, reason=_reason(error))
        else:
            what = f"{error.filename}: {error.strerror}; check the space and the permissions there"
            log.line("failed", log.ERROR, reason=what)
        return 1
    except Exception as error:
        log.line("failed", log.ERROR, error, reason=_reason(error))
        return 1
    finally:
        if loop is not None:
            loop.close()
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _reason(error: BaseException) -> str:
    return str(error) if isinstance(error, KafkaError) else f"{type(error).__name__}: {error}"


class _Loop:
    """The state of one run: the consumer, what it was told, and the batch in hand."""

    def __init__(
        self, worker: Worker, settings: KafkaSettings, data: Path, poll_ms: int, max_records: int
    ) -> None:
        self.worker, self.settings, self.poll_ms = worker, settings, poll_ms
        self.heartbeat = data / f"heartbeat-{worker.name}"
        self.batch: dict[TopicPartition, list[Any]] = {}
        self.held: set[TopicPartition] = set()  # what the worker was told that it has
        self.unsure = False  # a call of the worker did not return
        self.ready = False
        self.checked = self.measured = 0.0
        data.mkdir(parents=True, exist_ok=True)
        self.topic_ids = ensure_topics(settings)
        self.admin = settings.admin()
        self.consumer = settings.consumer(settings.group(worker.name), max_records)
        self.rebalances = _Rebalances()
        self.alone = os.environ.pop(ALONE, "") == "1"
        metrics.RETRIES.labels(worker.name)  # 0, and not nothing

    def load(self) -> None:
        """Has the worker load its model, or what it may be. One that is alone in its group joins it meanwhile, for brokers
        let the first member wait for others (Apache Kafka 3 s, group.initial.rebalance.delay.ms; the embedded one half of
        the session's timeout). Where others are, they would lose partitions to one who cannot work yet."""
        load: Callable[[bool], None] | None = getattr(self.worker, "load", None)
        if load is None:
            self.alone = False
            return
        if not self.alone:
            load(False)
            return
        self._subscribe()
        loaded = threading.Event()
        thread = threading.Thread(target=self._join, args=(lambda: not loaded.is_set(),), daemon=True)
        thread.start()
        try:
            load(True)
        finally:
            loaded.set()
            thread.join()
            # Also where loading failed: who leaves the embedded broker in the middle of a join keeps others out for minutes.
            until = time.monotonic() + self.settings.session_timeout_ms / 1000
            self._join(lambda: self.rebalances.joining and time.monotonic() < until)
        self.consumer.resume(*self.consumer.paused())

    def _join(self, more: Callable[[], bool]) -> None:
        """Polls for the group's sake: what comes is read again. The first turn meets an error again."""
        with suppress(KafkaError):
            while more():
                for tp, records in self.consumer.poll(timeout_ms=JOIN_POLL_MS).items():
                    self.consumer.seek(tp, records[0].offset)
                self.consumer.pause(*self.consumer.assignment())

    def start(self) -> None:
        self.worker.start(self.consumer, self.topic_ids)
        if not self.alone:
            self._subscribe()

    def _subscribe(self) -> None:
        topics = [self.settings.topic(name) for name in self.worker.topics]
        self.consumer.subscribe(topics, listener=self.rebalances)
        for topic in topics:  # a group's leader that does not know a topic yet gives nobody its partitions
            self.consumer.partitions_for_topic(topic)

    def turn(self) -> None:
        """One poll, and all that follows from it."""
        self.heartbeat.touch()
        joining = self.rebalances.joining
        busy = self.ready and not joining and getattr(self.worker, "unfinished", False)
        wait_ms = min(self.poll_ms, JOIN_POLL_MS) if joining else self.poll_ms
        self.batch = self.consumer.poll(timeout_ms=0 if busy or self.rebalances.events else wait_ms)
        started = time.monotonic()
        while self.rebalances.events:
            self._tell(*self.rebalances.events.popleft())
        self._check_topics()
        if not self.ready and not self.rebalances.joining:
            self.ready = True
            tell_ready(self.worker.ready())
        self.unsure = True
        if not self.batch and not busy:
            # A join that ends while nobody polls is begun anew by the client (kafka-python 3.0.12), so that a
            # worker with much to do between its polls would hardly ever join: until then there is nothing else.
            if not self.rebalances.joining:
                self.worker.idle()
            self.unsure = False
            return
        count = sum(map(len, self.batch.values()))
        metrics.in_hand(self.worker.name, self.consumer, self.settings.topic_prefix, self.batch)
        done = self.worker.process(self.batch)
        self.unsure = False
        self._commit(done)
        seconds = time.monotonic() - started
        if count:
            metrics.batch(self.worker.name, count, seconds)
        if done.fields:
            log.line("batch", **{"records": count, "ms": round(1000 * seconds), **done.fields})

    def measure(self) -> None:
        """Tell the metrics, once a second, what they cannot see by themselves."""
        metrics.turned(ready=self.ready and not self.rebalances.joining)
        now = time.monotonic()
        if self.ready and now - self.measured > MEASURE_S:
            self.measured = now
            metrics.lag(self.worker.name, self.consumer, self.settings.topic_prefix)
            metrics.memories(self.worker.name, self.worker.ready())

    def _tell(self, what: str, partitions: list[TopicPartition]) -> None:
        if not partitions:
            return
        self.unsure = True
        if what == "assigned":
            self.held |= set(partitions)
            self.worker.assigned(partitions)
        else:
            self.worker.revoked(partitions)
            self.held -= set(partitions)
        self.unsure = False
        log.line(
            what, partitions=",".join(f"{self.settings.short(tp.topic)}/{tp.partition}" for tp in partitions)
        )

    def _commit(self, done: Done) -> None:
        """Commit the offsets of a batch that `process` has made durable: step 5 of workers/write/worker.py's `_commit`."""
        offsets = {tp: records[-1].offset + 1 for tp, records in self.batch.items()}
        if done.offsets is not None and done.ahead:
            offsets = done.offsets
        elif done.offsets is not None:
            offsets = {tp: done.offsets.get(tp, records[0].offset) for tp, records in self.batch.items()}
            for tp, offset in offsets.items():
                self.consumer.seek(tp, offset)
        self.batch = {}  # what follows must not be taken back
        if not offsets:
            return
        try:
            self.consumer.commit(
                {tp: OffsetAndMetadata(offset, "", -1) for tp, offset in offsets.items()},
                timeout_ms=COMMIT_TIMEOUT_MS,
            )
        except _GROUP_MOVED_ON as error:  # done twice at worst, and that is harmless
            log.line("not committed", log.WARNING, reason=type(error).__name__)

    def _check_topics(self) -> None:
        """Ask for the topics' ids before each batch: a poll says nothing when the broker is away or was
        wiped."""
        now = time.monotonic()
        if not self.batch and now - self.checked < IDLE_CHECK_S:
            return
        if topic_ids(self.admin, self.settings) != self.topic_ids:
            raise TopicsReplaced("the topics were made anew; this worker must start anew")
        self.checked = now

    def take_again(self) -> None:
        """After a failure: the batch is read again, and a worker that failed drops and takes its
        partitions."""
        owned = self.consumer.assignment()
        for tp, records in self.batch.items():
            if tp in owned:
                self.consumer.seek(tp, records[0].offset)
        self.batch = {}
        if self.unsure:
            self.rebalances.events.clear()  # all of them are told here
            self._tell("revoked", sorted(self.held))
            self._tell("assigned", sorted(owned))

    def close(self) -> None:
        """Leave the group, so that others need not wait for the session to time out."""
        for what in (
            self.worker.close,
            lambda: self.consumer.close(autocommit=False, timeout_ms=LEAVE_TIMEOUT_MS),
            self.admin.close,
            lambda: self.heartbeat.unlink(missing_ok=True),
        ):
            try:
                what()
            except (KafkaError, OSError, RuntimeError) as error:
                log.line("not closed", log.WARNING, reason=_reason(error))


class _Rebalances(ConsumerRebalanceListener):  # type: ignore[misc]
    """Keeps what the group decides for the main thread: the client calls this on the thread of its
    heartbeats, where nothing may block. It does so only during `poll`, so nothing is revoked in the middle
    of a batch."""

    def __init__(self) -> None:
        self.events: deque[tuple[str, list[TopicPartition]]] = deque()
        self.joining = True

    def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        self.joining = False
        self.events.append(("assigned", sorted(assigned)))

    def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        self.joining = True  # this is how a rebalance begins, whatever one holds
        self.events.append(("revoked", sorted(revoked)))

    on_partitions_lost = on_partitions_revoked


def tell_ready(facts: dict[str, str | int]) -> None:
    """Tell the supervisor, if there is one: the line `ready {json}` on the pipe that it left open for us."""
    number = os.environ.pop(READY_FD, "")
    log.line("ready", **facts)
    if number.isdecimal():
        with os.fdopen(int(number), "w") as pipe:
            pipe.write(f"ready {json.dumps(facts)}\n")
