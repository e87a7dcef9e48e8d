"""Publisher of changes: records that arrive together are sent together, and each change ends when its records are decided.

A change is given up only when the broker fails or the workers stop deciding: see `client.publish`. How many may wait is bounded,
and so is what is kept of those that ended.
"""

import queue
import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from schemas.common import BadMessage
from schemas.fact import FactMessage
from workers import client
from workers.client import positions
from workers.kafka.config import KafkaSettings
from workers.kafka.errors import KafkaError, KafkaUnavailable, TopicsMismatch, TopicsMissing
from workers.memories.errors import Busy, Unavailable

MAX_WAITING = 256
"""Changes that wait to be sent."""
MAX_TOGETHER = 64
"""Changes that are sent together."""
THREADS = 2
POLL_S = 0.5
MAX_KEPT = 1_000
"""Changes whose state is kept; of those before them it is in the history."""

Status = Literal["PENDING", "RUNNING", "SUCCEEDED", "FAILED"]
Records = Sequence[tuple[str, FactMessage]]
"""Pairs of a namespace and a record."""


@dataclass(slots=True)
class Change:
    """Records that are sent together, and how far they are. `done` is set when they are decided, or given up."""

    id: str
    namespace: str  # of its first record
    records: Records
    status: Status = "PENDING"
    error: str | None = None
    created_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    completed_at: datetime | None = None
    done: "Future[None]" = field(default_factory=Future)

    def end(self, error: str | None = None) -> None:
        self.status, self.error = ("FAILED", error) if error else ("SUCCEEDED", None)
        self.completed_at, self.records = datetime.now(UTC), ()
        self.done.set_result(None)


class Publisher:
    """Sends changes on threads of its own, from the first one on. Close it."""

    def __init__(self, settings: KafkaSettings, data: Path) -> None:
        self._settings, self._data = settings, data
        self._waiting: queue.Queue[Change] = queue.Queue(MAX_WAITING)
        self._kept: OrderedDict[str, Change] = OrderedDict()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()  # of what is kept, of the threads, and of the file of positions
        self._closed = False

    def submit(self, id: str, records: Records) -> Change:
        """Queues records, one at least, for their topic. Raises Busy, Unavailable."""
        change = Change(id, records[0][0], records)
        with self._lock:
            if self._closed:
                raise Unavailable("the server is stopping")
            try:
                self._waiting.put_nowait(change)
            except queue.Full:
                raise Busy(f"{MAX_WAITING} changes wait already: try again in a few seconds") from None
            self._kept[id] = change
            while len(self._kept) > MAX_KEPT:
                self._kept.popitem(last=False)
            if len(self._threads) < THREADS:
                thread = threading.Thread(target=self._run, name="changes", daemon=True)
                self._threads.append(thread)
                thread.start()
        return change

    def kept(self, id: str) -> Change | None:
        return self._kept.get(id)

    def newest(self) -> list[Change]:
        """The changes that are kept, the newest first."""
        with self._lock:
            return list(reversed(self._kept.values()))

    def close(self) -> None:
        """Takes no more changes. Those that were sent go on in their workers; those that wait fail."""
        with self._lock:
            self._closed = True
        for change in self._arrived(0.0, MAX_WAITING):
            change.end("the server is stopping; nothing was sent")

    def _run(self) -> None:
        while not self._closed:
            if changes := self._arrived(POLL_S, MAX_TOGETHER):
                self._publish(changes)

    def _arrived(self, wait_s: float, at_most: int) -> list[Change]:
        """The changes that wait; none if none comes in that time."""
        changes: list[Change] = []
        with suppress(queue.Empty):
            while len(changes) < at_most:
                changes.append(self._waiting.get(not changes and wait_s > 0, wait_s))
        return changes

    def _publish(self, changes: Sequence[Change]) -> None:
        for change in changes:
            change.status = "RUNNING"
        error = None
        try:
            records = [record for change in changes for record in change.records]
            published = client.publish(self._settings, records, wait=True)
            with self._lock:
                positions.remember(self._data, published.after)
        except (KafkaUnavailable, client.ClientError, TopicsMissing, TopicsMismatch, BadMessage) as failure:
            error = str(failure)[:500]
        except KafkaError as failure:
            error = f"the broker refused: {str(failure)[:400]}"
        except Exception as failure:  # a bug must not leave anybody waiting for ever
            error = f"{type(failure).__name__}: {str(failure)[:400]}"
        for change in changes:
            change.end(error)
