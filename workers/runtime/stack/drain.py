"""The drain: before the embedded broker stops, the workers consume the records in its memory."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing

from schemas.topics import DEAD_LETTERS, FACT_ENCODINGS, FACTS, GENERATION_REQUESTS, MEMORY_HITS
from workers.kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from workers.kafka.config import KafkaSettings
from workers.kafka.errors import KafkaError, KafkaUnavailable
from workers.kafka.offsets import progress
from workers.observe import log
from workers.runtime.signals import Stop

CONSUMED = {
    "encoder": [FACTS],
    "generator": [GENERATION_REQUESTS],
    "writer": [FACT_ENCODINGS, MEMORY_HITS, DEAD_LETTERS],
}
"""The topics that each worker's group must have consumed. Each group comes after the groups whose output it reads."""
TICK_S = 0.1

Unread = dict[TopicPartition, tuple[int, int]]
"""The offset that a partition's group reads next, and the end, by partition."""


def drain(settings: KafkaSettings, limit_s: float, stop: Stop, upstream: Sequence[str] = ()) -> None:
    """Wait until the workers have consumed everything, for at most `limit_s` or until an urgent stop; log what is left.

    `upstream`: what a source worker reads, by full names.
    """
    deadline, waiting = time.monotonic() + limit_s, False
    try:
        with closing(settings.admin()) as admin, closing(settings.consumer()) as consumer:
            while left := unread(admin, consumer, settings, upstream):
                if not waiting:
                    log.line("draining", **count_by_topic(settings, left))
                waiting = True
                if time.monotonic() > deadline or stop.is_urgent():
                    log.line("not drained", log.WARNING, **count_by_topic(settings, left))
                    return
                time.sleep(TICK_S)
        log.line("drained")
    except (KafkaError, KafkaUnavailable) as error:
        log.line("not drained", log.WARNING, reason=str(error))


def consumed_topics(settings: KafkaSettings, upstream: Sequence[str] = ()) -> dict[str, list[str]]:
    """The full names of the topics that each worker's group consumes, in the order of the stream."""
    own = {worker: [settings.topic(name) for name in names] for worker, names in CONSUMED.items()}
    return {"source": list(upstream), **own}


def unread(
    admin: KafkaAdminClient, consumer: KafkaConsumer, settings: KafkaSettings, upstream: Sequence[str] = ()
) -> Unread:
    """The partitions with records that their group has not committed. A group's last output is counted for the next group.

    `consumer` is used as by `offsets.end_offsets`. Raises KafkaError.
    """
    found: Unread = {}
    for worker, topics in consumed_topics(settings, upstream).items():
        found |= progress(admin, consumer, settings.group(worker), topics)
    return {tp: (first, end) for tp, (first, end) in found.items() if first < end}


def count_by_topic(
    settings: KafkaSettings, found: Mapping[TopicPartition, tuple[int, int]]
) -> dict[str, int]:
    """How many records there are of each topic (a short name)."""
    counts = Counter[str]()
    for tp, (first, end) in found.items():
        counts[settings.short(tp.topic)] += end - first
    return dict(counts)
