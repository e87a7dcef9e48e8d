"""A consumer that reads topics from their current ends on."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from workers.kafka import TopicPartition
from workers.kafka.config import KafkaSettings
from workers.kafka.offsets import end_offsets


class Tail:
    """Reads the records that arrive on these topics (short names) after its creation. It joins no group."""

    def __init__(
        self,
        settings: KafkaSettings,
        names: Iterable[str],
        choose: Callable[[Sequence[TopicPartition]], Sequence[TopicPartition]] = lambda every: every,
    ) -> None:
        """`choose` picks the partitions to read, of all of them."""
        self._consumer: Any = settings.consumer()
        try:
            self.every = [
                TopicPartition(settings.topic(name), number)
                for name in names
                for number in sorted(self._consumer.partitions_for_topic(settings.topic(name)) or ())
            ]
            self.partitions = choose(self.every)
            ends = end_offsets(self._consumer, self.partitions)
            self._consumer.assign(self.partitions)  # end_offsets has changed the assignment
            for partition, offset in ends.items():
                self._consumer.seek(partition, offset)
        except BaseException:
            self._consumer.close()  # its thread would try to connect as long as the process lives
            raise

    def poll(self) -> list[Any]:
        """The records that have arrived, after at most 100 ms."""
        return [record for records in self._consumer.poll(timeout_ms=100).values() for record in records]

    def close(self) -> None:
        self._consumer.close()
