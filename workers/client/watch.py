"""Observer of a running cluster: lag, rates, decisions and answers, summed up once per interval.

It reads the topics from their ends, and the committed offsets of the workers' groups. It joins no group,
writes nothing and needs no data folder, so it can observe a cluster from anywhere.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from typing import Any

from schemas import topics
from workers.client.events import TOPICS, Events
from workers.client.tail import Tail
from workers.kafka.admin import topic_ids
from workers.kafka.config import KafkaSettings
from workers.kafka.errors import KafkaError, KafkaUnavailable, TopicsMissing
from workers.kafka.offsets import group_progress
from workers.runtime.signals import Stop
from workers.runtime.stack.drain import CONSUMED

RATE_WINDOW_S = 10.0
RECONNECT_S = 1.0

CONNECTION_ERRORS = (KafkaError, KafkaUnavailable, TopicsMissing)


def ticks(settings: KafkaSettings, interval_s: float, stop: Stop) -> Iterator[dict[str, Any]]:
    """Yields a summary every `interval_s` seconds until `stop`; while the broker is away, an error instead.

    Raises KafkaUnavailable or TopicsMissing if the broker or factstream's topics are missing at the start.
    """
    observer: Observer | None = Observer(settings)
    try:
        while not stop.is_set():
            try:
                observer = observer or Observer(settings)
                yield observer.tick(interval_s, stop)
            except CONNECTION_ERRORS as error:
                if observer:
                    _ignoring_errors(observer.close)
                    observer = None
                yield {"time": _now(), "error": str(error)}
                stop.wait(RECONNECT_S)
    finally:
        if observer:
            _ignoring_errors(observer.close)


class Observer:
    """The connections to one cluster, and the totals from which rates are computed."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        with ExitStack() as clients:  # if one cannot be opened, those before it are closed
            self._admin = clients.enter_context(closing(settings.admin()))
            topic_ids(self._admin, settings)  # raises TopicsMissing
            self._consumer = clients.enter_context(closing(settings.consumer()))
            self._tail = clients.enter_context(closing(Tail(settings, TOPICS)))
            self._clients = clients.pop_all()
        self._totals: deque[tuple[float, int, int]] = deque()  # (time, published, decided) of the last ticks
        self._decided = 0
        self._events = Events()

    def tick(self, interval_s: float, stop: Stop) -> dict[str, Any]:
        """Reads the topics for `interval_s` seconds, and sums up the new records, the lag and the rates."""
        end, events = time.monotonic() + interval_s, self._events
        while time.monotonic() < end and not stop.is_set():
            for record in self._tail.poll():
                events.take(self._settings.short(record.topic), record)
        lag, published = self._lag()
        self._decided += events.outcomes.total()
        rates = self._rates(time.monotonic(), published)
        return {"time": _now(), "lag": lag, **rates, **events.drain()}

    def _lag(self) -> tuple[dict[str, dict[str, int]], int]:
        """Records not committed yet, by topic and partition; and the number of facts ever published."""
        lag: dict[str, dict[str, int]] = {}
        published = 0
        for worker, names in CONSUMED.items():
            offsets = group_progress(self._admin, self._consumer, self._settings, worker, names)
            for tp, (committed, end) in offsets.items():
                topic = self._settings.short(tp.topic)
                lag.setdefault(topic, {})[str(tp.partition)] = end - committed
                published += end if topic == topics.FACTS else 0
        return lag, published

    def _rates(self, now: float, published: int) -> dict[str, float]:
        """Facts per second over the last `RATE_WINDOW_S` seconds."""
        self._totals.append((now, published, self._decided))
        while len(self._totals) > 2 and self._totals[1][0] < now - RATE_WINDOW_S:
            self._totals.popleft()
        if len(self._totals) == 1:
            return {"published_per_s": 0.0, "decided_per_s": 0.0}
        then, published_then, decided_then = self._totals[0]
        seconds = max(now - then, 1e-9)
        return {
            "published_per_s": round(max(0, published - published_then) / seconds, 2),
            "decided_per_s": round((self._decided - decided_then) / seconds, 2),
        }

    def close(self) -> None:
        self._clients.close()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _ignoring_errors(close: Callable[[], object]) -> None:
    try:
        close()
    except (KafkaError, OSError):
        return
