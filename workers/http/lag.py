"""Sampler of the workers' lag: every few seconds while the server runs, kept for an hour."""

import threading
import time
from collections import deque
from contextlib import closing
from typing import NamedTuple

from workers.kafka.admin import topic_ids
from workers.kafka.config import KafkaSettings
from workers.kafka.offsets import lag
from workers.runtime.stack.drain import CONSUMED

EVERY_S = 10.0
KEPT = 360
"""Samples that are kept."""


class Sample(NamedTuple):
    at: float  # epoch seconds
    waiting: dict[str, int]  # by topic: records not consumed yet
    error: str = ""


class Sampler:
    """A thread that reads the workers' committed offsets from the cluster."""

    def __init__(self, settings: KafkaSettings, every_s: float = EVERY_S) -> None:
        self._settings, self._every_s = settings, every_s
        self._samples: deque[Sample] = deque(maxlen=KEPT)
        self._stop = threading.Event()

    def start(self) -> None:
        threading.Thread(target=self._run, name="lag", daemon=True).start()

    def stop(self) -> None:
        self._stop.set()

    def last(self) -> Sample | None:
        return self._samples[-1] if self._samples else None

    def samples(self) -> list[dict[str, object]]:
        """The samples without an error, the oldest first."""
        return [{"at": s.at, "waiting": s.waiting} for s in list(self._samples) if not s.error]

    def _run(self) -> None:
        while True:
            self._samples.append(self._sample())
            if self._stop.wait(self._every_s):
                return

    def _sample(self) -> Sample:
        waiting: dict[str, int] = {}
        try:
            with closing(self._settings.admin()) as admin, closing(self._settings.consumer()) as consumer:
                topic_ids(admin, self._settings)  # raises TopicsMissing
                for worker, topics in CONSUMED.items():
                    waiting |= lag(admin, consumer, self._settings, worker, topics)
            return Sample(time.time(), waiting)
        except Exception as error:  # of any kind: if the thread ended, the last sample would look current
            return Sample(time.time(), {}, str(error)[:300])
