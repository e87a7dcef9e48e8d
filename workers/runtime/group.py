"""A worker's membership in its consumer group: joining, and the rebalances that the group decides."""

from collections import deque
from collections.abc import Callable, Collection, Sequence

from workers.kafka import ConsumerRebalanceListener, KafkaConsumer, TopicPartition

JOIN_POLL_MS = 100


class Rebalances(ConsumerRebalanceListener):  # type: ignore[misc]
    """A queue of the group's decisions for the main thread.

    The client calls this on the thread of its heartbeats, where nothing may block. It does so only during `poll`, so
    nothing is revoked in the middle of a batch. `request_rejoin` is the client's.
    """

    def __init__(self, request_rejoin: Callable[[], None]) -> None:
        self._request_rejoin = request_rejoin
        self.events: deque[tuple[str, list[TopicPartition]]] = deque()
        self.joining = True

    def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        self.joining = False
        self.events.append(("assigned", sorted(assigned)))

    def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        self.joining = True  # a rebalance begins with this, whichever partitions are owned
        # A join after new metadata is over for the client (kafka-python 3.0.12) once the leader has assigned: if the
        # poll ends before the group's answer, no later poll takes it, and the member is neither in nor out.
        self._request_rejoin()
        self.events.append(("revoked", sorted(revoked)))

    on_partitions_lost = on_partitions_revoked


def subscribe(consumer: KafkaConsumer, topics: Sequence[str], rebalances: Rebalances) -> None:
    """Begin to join the group. `topics` are full names."""
    consumer.subscribe(topics, listener=rebalances)
    for topic in topics:  # a group's leader does not assign partitions of a topic that it does not know yet
        consumer.partitions_for_topic(topic)


def take_all(consumer: KafkaConsumer, topics: Sequence[str], rebalances: Rebalances) -> None:
    """Read all partitions of the topics (full names) without joining the group; only its commits are the group's.

    For a worker that is alone in its group, since `up` started it on a broker of its own: a join would take seconds, the embedded
    broker's half of the session timeout, and after a kill as long as the session of the dead one lasts.
    """
    partitions = [
        TopicPartition(topic, number)
        for topic in topics
        for number in consumer.partitions_for_topic(topic) or ()
    ]
    consumer.assign(partitions)
    rebalances.on_partitions_assigned(partitions)
