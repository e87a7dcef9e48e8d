"""The loop of every worker: poll, process, commit; with rebalances, retries and a clean stop.

A worker makes its batch durable in `process`: it appends to the history if it has one, produces its records, and flushes
the producer. Only then does the loop commit the batch's offsets, so after a crash the batch is read again. All methods
of a worker run on the main thread; heartbeats to the group run on the client's own thread meanwhile.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from workers.kafka import TopicPartition, offsets
from workers.kafka.admin import ensure_topics, tells_aborted, topic_ids
from workers.kafka.config import KafkaSettings
from workers.kafka.errors import GROUP_MOVED_ON, KafkaError, KafkaUnavailable, TopicsMissing
from workers.observe import log, metrics
from workers.observe.health import Health
from workers.runtime.failures import TopicsReplaced, log_failure, reason
from workers.runtime.gathering import gather
from workers.runtime.group import JOIN_POLL_MS, Rebalances, subscribe, take_all
from workers.runtime.ready import ALONE, tell_ready
from workers.runtime.signals import Interrupted, Stop, interrupted_by_signals, stopped_by_signals
from workers.runtime.worker import Done, Retry, Worker

MAX_FAILURES = 10
"""Failures in a row after which the process ends, about a minute after the first."""
JOIN_TIMEOUT_S = 90.0
"""Longest wait for the group. After it the worker ends, and the supervisor or the container's restart policy starts it with a
new client."""
IDLE_CHECK_S = 2.0
MEASURE_S = 1.0
LEAVE_TIMEOUT_MS = 2000


def run(
    worker: Worker,
    settings: KafkaSettings,
    data: Path,
    stop: Stop | None = None,
    health: Health | None = None,
    poll_ms: int = 500,
    max_records: int = 500,
    sleep: Callable[[float], object] | None = None,
) -> int:
    """Run a worker. Returns the exit code: 0 if it was stopped, 1 if it failed, with the reason in the log.

    After SIGTERM, SIGINT or `stop` it finishes and commits the current batch, and leaves the group; a signal while it loads ends
    that at once. `sleep` waits after a failure; it must return early when `stop` is set (the default does).
    """
    stop = stop or Stop()
    loop = None
    with stopped_by_signals(stop):
        try:
            with interrupted_by_signals(stop):  # until it has loaded there is nothing to finish
                data.mkdir(parents=True, exist_ok=True)
                loop = Loop(worker, settings, health or Health(), poll_ms, max_records)
                loop.load()
            loop.start()
            _turns(loop, stop, sleep or stop.wait)
        except Interrupted:
            pass
        except Exception as error:
            log_failure(error)
            return 1
        finally:
            if loop is not None:
                loop.close()
        log.line("stopped")
        return 0


def _turns(loop: "Loop", stop: Stop, sleep: Callable[[float], object]) -> None:
    """Turn the loop until `stop`; wait and retry after a failure that may pass. Raises an error that ends the worker."""
    failures = 0
    while not stop.is_set():
        try:
            if failures:
                loop.retry()
            loop.turn()
            loop.measure()
            failures = 0
        except (KafkaError, Retry, TopicsMissing) as error:
            failures += 1
            metrics.RETRIES.labels(loop.worker.name).inc()
            loop.health.turned(ready=False)
            if isinstance(error, KafkaError) and not error.retriable:
                raise
            if failures > MAX_FAILURES:
                raise KafkaUnavailable(
                    f"gave up on {loop.settings.bootstrap} after {failures} failures; the last: "
                    f"{reason(error)}"
                ) from error
            log.line("retry", log.WARNING, failures=failures, reason=reason(error))
            sleep(min(0.25 * 2**failures, 8.0))


class Loop:
    """The state of the loop: the clients, the partitions, and the current batch."""

    def __init__(
        self,
        worker: Worker,
        settings: KafkaSettings,
        health: Health,
        poll_ms: int,
        max_records: int,
    ) -> None:
        self.worker, self.settings, self.health, self.poll_ms = worker, settings, health, poll_ms
        self.batch: dict[TopicPartition, list[Any]] = {}
        self.assigned: set[TopicPartition] = set()
        """The partitions for which `Worker.assigned` was called, and not `revoked`."""
        self.committed: dict[TopicPartition, int] = {}
        """The last commit of each partition since its assignment."""
        self.unsure = False
        """Whether a method of the worker is running, or has failed: its state may be half changed."""
        self.ready = self.announced = False  # has had its first assignment; has announced that it can work
        self.checked = self.measured = self.ended = 0.0  # when: the topics, the lag, the last batch
        self.joined_at = time.monotonic()  # or began to join
        self.names = (*worker.topics, *worker.uses)
        self.topic_ids = ensure_topics(settings, self.names)
        self.admin = settings.admin()
        committed = worker.read_committed and tells_aborted(self.admin)
        group = settings.group(worker.name)
        self.consumer = settings.consumer(group, max_records, committed, worker.sticky)
        self.rebalances = Rebalances(self.consumer._coordinator.request_rejoin)
        self.alone = os.environ.pop(ALONE, "") == "1"
        metrics.RETRIES.labels(worker.name)  # the series exists from the start

    def load(self) -> None:
        self.worker.load(self.alone)

    def start(self) -> None:
        self.worker.start(self.consumer, self.topic_ids)
        topics = [*(self.settings.topic(name) for name in self.worker.topics), *self.worker.upstream]
        (take_all if self.alone else subscribe)(self.consumer, topics, self.rebalances)
        self.joined_at = time.monotonic()

    def turn(self) -> None:
        """Poll once, and handle rebalances, the records, or the lack of them."""
        joining = self.rebalances.joining
        self._check_join(joining)
        busy = self.ready and not joining and self.worker.unfinished
        wait_ms = min(self.poll_ms, JOIN_POLL_MS) if joining else self.poll_ms
        self.batch = self.consumer.poll(timeout_ms=0 if busy or self.rebalances.events else wait_ms)
        self.batch = gather(self.consumer, self.batch, self.ended + self.worker.linger_s, self.rebalances)
        started = time.monotonic()
        while self.rebalances.events:
            self._rebalance(*self.rebalances.events.popleft())
        self._check_topics()
        if not self.ready and not self.rebalances.joining:
            self.ready = True
        if self.ready and not (self.announced or self.worker.loading):
            self.announced = True
            tell_ready(self.worker.ready())
        if self.batch or busy:
            self._process(started)
        # The client begins a join again that ends between two polls (kafka-python 3.0.12), so a worker with much to do
        # between its polls would hardly ever join: it is idle only when it has joined.
        elif not self.rebalances.joining:
            self._commit_passed()
            self.unsure = True
            self.worker.idle()
            self.unsure = False

    def _check_join(self, joining: bool) -> None:
        """Raise KafkaUnavailable if the group has not let this worker in for too long."""
        now = time.monotonic()
        if not joining:
            self.joined_at = now
        elif now - self.joined_at > JOIN_TIMEOUT_S:
            group = self.settings.group(self.worker.name)
            raise KafkaUnavailable(
                f"not a member of the group {group} after {JOIN_TIMEOUT_S:g} s of joining; start this worker again"
            )

    def _process(self, started: float) -> None:
        """Let the worker make the batch durable (append, produce, flush), then commit its offsets."""
        count = sum(map(len, self.batch.values()))
        first_offsets = {tp: records[0].offset for tp, records in self.batch.items()}
        self._measure_lag(offsets.unread(self.consumer, first_offsets), complete=False)
        self.unsure = True
        done = self.worker.process(self.batch)
        self.unsure = False
        self.commit(done)
        self.ended = time.monotonic()
        seconds = self.ended - started
        if count:
            metrics.batch(self.worker.name, count, seconds)
        if done.fields:
            log.line("batch", **{"records": count, "ms": round(1000 * seconds), **done.fields})

    def commit(self, done: Done) -> None:
        """Commit the offsets of a batch that `process` has made durable: step 5 of the commit in workers/write/worker.py.

        If the partitions have moved to another member, it processes the batch again, which is harmless.
        """
        if done.ahead:
            next_offsets = dict(done.offsets or {})
        elif done.offsets is None:
            next_offsets = {tp: records[-1].offset + 1 for tp, records in self.batch.items()}
        else:
            next_offsets = {tp: done.offsets.get(tp, records[0].offset) for tp, records in self.batch.items()}
            for tp, offset in next_offsets.items():
                self.consumer.seek(tp, offset)
        self.batch = {}  # a failure from here on does not read it again
        self._commit(next_offsets)

    def _commit_passed(self) -> None:
        """Commit past what no poll returns, so that it is no lag: an aborted transaction, and the mark that ends each."""
        positions = {tp: self.consumer.position(tp, timeout_ms=100) or 0 for tp in self.committed}
        self._commit({tp: at for tp, at in positions.items() if at > self.committed[tp]})

    def _commit(self, next_offsets: dict[TopicPartition, int]) -> None:
        if not next_offsets:
            return
        self.committed |= next_offsets
        try:
            offsets.commit(self.consumer, next_offsets)
        except GROUP_MOVED_ON as error:
            log.line("not committed", log.WARNING, reason=type(error).__name__)

    def measure(self) -> None:
        """Report the health of this turn, and once a second the lag and the number of memories."""
        self.health.turned(self.announced and not self.rebalances.joining and not self.worker.loading)
        now = time.monotonic()
        if self.ready and now - self.measured > MEASURE_S:
            self.measured = now
            self._measure_lag(offsets.unread(self.consumer) | self.worker.unread())
            metrics.memories(self.worker.name, self.worker.ready())

    def _measure_lag(self, counts: dict[TopicPartition, int], complete: bool = True) -> None:
        named = {(self.settings.short(tp.topic), tp.partition): count for tp, count in counts.items()}
        metrics.lag(self.worker.name, named, complete)

    def _rebalance(self, event: str, partitions: list[TopicPartition]) -> None:
        if not partitions and event == "revoked":
            return
        for tp in partitions:
            self.committed.pop(tp, None)
        self.unsure = True
        if event == "assigned":
            self.assigned |= set(partitions)
            self.worker.assigned(partitions)
        else:
            self.worker.revoked(partitions)
            self.assigned -= set(partitions)
        self.unsure = False
        names = ",".join(f"{self.settings.short(tp.topic)}/{tp.partition}" for tp in partitions)
        log.line(event, partitions=names)

    def _check_topics(self) -> None:
        """Compare the topics' ids, before each batch: a poll does not show that the broker is away or was wiped.

        Raises TopicsReplaced, TopicsMissing, KafkaError.
        """
        now = time.monotonic()
        if not self.batch and now - self.checked < IDLE_CHECK_S:
            return
        if topic_ids(self.admin, self.settings, self.names) != self.topic_ids:
            raise TopicsReplaced("the topics were deleted and created again; start this worker again")
        self.checked = now

    def retry(self) -> None:
        """Rewinds to the batch's start after a failure, and lets a worker that failed load its partitions again."""
        owned = self.consumer.assignment()
        for tp, records in self.batch.items():
            if tp in owned:
                self.consumer.seek(tp, records[0].offset)
        self.batch = {}
        if self.unsure:
            self.rebalances.events.clear()  # superseded by these two
            self._rebalance("revoked", sorted(self.assigned))
            self._rebalance("assigned", sorted(owned))

    def close(self) -> None:
        """Leave the group, so that others need not wait for the session to time out."""
        for step in (
            self.worker.close,
            lambda: self.consumer.close(autocommit=False, timeout_ms=LEAVE_TIMEOUT_MS),
            self.admin.close,
        ):
            try:
                step()
            except (KafkaError, OSError, RuntimeError) as error:
                log.line("not closed", log.WARNING, reason=reason(error))
