"""The drain: before the embedded broker stops, the workers consume the records in its memory."""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from schemas.topics import DEAD_LETTERS, FACT_ENCODINGS, FACTS, GENERATION_REQUESTS, MEMORY_HITS
from workers.kafka import TopicPartition
from workers.kafka.config import KafkaSettings
from workers.kafka.errors import KafkaError, KafkaUnavailable
from workers.kafka.offsets import lag, progress
from workers.observe import log
from workers.runtime.signals import Stop

CONSUMED = {
    "encoder": [FACTS],
    "generator": [GENERATION_REQUESTS],
    "writer": [FACT_ENCODINGS, MEMORY_HITS, DEAD_LETTERS],
}
"""The topics that each worker's group must have consumed. Each group comes after the groups whose output it reads."""
TICK_S = 0.1


def drain(settings: KafkaSettings, limit_s: float, stop: Stop, upstream: Sequence[str] = ()) -> None:
    """Wait until the workers have consumed everything, for at most `limit_s` or until an urgent stop; log what is lost.

    `upstream`: what a source worker reads, by full names.
    """
    deadline, waiting = time.monotonic() + limit_s, False
    try:
        admin, consumer = settings.admin(), settings.consumer()
        try:
            while left := {
                **_left_upstream(progress(admin, consumer, settings.group("source"), upstream)),
                **_left(lambda worker, topics: lag(admin, consumer, settings, worker, topics)),
            }:
                if not waiting:
                    log.line("draining", **left)
                waiting = True
                if time.monotonic() > deadline or stop.is_urgent():
                    log.line("not drained", log.WARNING, lost="in the broker's memory only", **left)
                    return
                time.sleep(TICK_S)
        finally:
            consumer.close(autocommit=False)
            admin.close()
        log.line("drained")
    except (KafkaError, KafkaUnavailable) as error:
        log.line("not drained", log.WARNING, reason=str(error))


def _left(lag_of: Callable[[str, Sequence[str]], dict[str, int]]) -> dict[str, int]:
    """The records left by topic. In the order of `CONSUMED`, a group's last output is counted for the next group."""
    left: dict[str, int] = {}
    for worker, topics in CONSUMED.items():
        left |= {topic: count for topic, count in lag_of(worker, topics).items() if count}
    return left


def _left_upstream(found: Mapping[TopicPartition, tuple[int, int]]) -> dict[str, int]:
    """The records left by topic of what a source worker reads."""
    left = Counter[str]()
    for tp, (committed, end) in found.items():
        left[tp.topic] += end - committed
    return {topic: count for topic, count in left.items() if count}
