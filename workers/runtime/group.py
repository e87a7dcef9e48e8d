"""A worker's membership in its consumer group: joining, and the rebalances that the group decides."""

import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress

from workers.kafka import ConsumerRebalanceListener, KafkaConsumer, TopicPartition
from workers.kafka.errors import KafkaError

JOIN_POLL_MS = 100


class Rebalances(ConsumerRebalanceListener):  # type: ignore[misc]
    """A queue of the group's decisions for the main thread.

    The client calls this on the thread of its heartbeats, where nothing may block. It does so only during `poll`, so
    nothing is revoked in the middle of a batch.
    """

    def __init__(self) -> None:
        self.events: deque[tuple[str, list[TopicPartition]]] = deque()
        self.joining = True

    def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        self.joining = False
        self.events.append(("assigned", sorted(assigned)))

    def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        self.joining = True  # a rebalance begins with this, whichever partitions are owned
        self.events.append(("revoked", sorted(revoked)))

    on_partitions_lost = on_partitions_revoked


def subscribe(consumer: KafkaConsumer, topics: Sequence[str], rebalances: Rebalances) -> None:
    """Begin to join the group. `topics` are full names."""
    consumer.subscribe(topics, listener=rebalances)
    for topic in topics:  # a group's leader does not assign partitions of a topic that it does not know yet
        consumer.partitions_for_topic(topic)


def join_while(
    load: Callable[[], object], consumer: KafkaConsumer, rebalances: Rebalances, timeout_s: float
) -> None:
    """Run `load` while another thread joins the group to which the consumer has subscribed.

    A broker lets a group's first member wait for others (Apache Kafka for 3 s, group.initial.rebalance.delay.ms; the
    embedded broker for half of the session timeout), and the worker loads meanwhile. Only for a worker that is alone in
    its group: others would lose partitions to a worker that is not ready.
    """
    loaded = threading.Event()
    thread = threading.Thread(target=_join, args=(consumer, lambda: not loaded.is_set()), daemon=True)
    thread.start()
    try:
        load()
    finally:
        loaded.set()
        thread.join()
        # Also where loading failed: leaving the embedded broker in the middle of a join keeps others out for minutes.
        until = time.monotonic() + timeout_s
        _join(consumer, lambda: rebalances.joining and time.monotonic() < until)
    consumer.resume(*consumer.paused())


def _join(consumer: KafkaConsumer, more: Callable[[], bool]) -> None:
    """Poll only to join: fetched records are read again later, and an error comes again in the loop's first poll."""
    with suppress(KafkaError):
        while more():
            for tp, records in consumer.poll(timeout_ms=JOIN_POLL_MS).items():
                consumer.seek(tp, records[0].offset)
            consumer.pause(*consumer.assignment())
