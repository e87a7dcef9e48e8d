"""The interface of a worker: the methods that the loop calls, and their results."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from workers.kafka import KafkaConsumer, TopicPartition


class Retry(Exception):
    """The batch must be retried: the loop loads the worker's partitions again, and reads the batch again."""


@dataclass(frozen=True)
class Done:
    """A batch is durable, and its offsets may be committed. `fields` are logged with it.

    `offsets`, the next to read, are given if the worker processed only a part of the batch; the rest is read again. With
    `ahead` the worker keeps the rest and finishes it later: exactly `offsets` are committed, and nothing is read again.
    """

    fields: dict[str, object]
    offsets: dict[TopicPartition, int] | None = None
    ahead: bool = False


class Worker(ABC):
    """The work of a process on its topics. All methods run on the main thread: `load`, `start`, then the others.

    `topics` are short names; a TopicPartition has the full name.
    """

    name: str
    topics: Sequence[str]
    uses: Sequence[str] = ()
    """The other topics that it reads or writes: it needs no rights on any besides these two."""
    read_committed = False
    """Whether other systems write its topics, perhaps in transactions: an aborted one is then as if it had not been."""
    linger_s: float = 0.0
    """Least time from the end of a batch to the next one while records keep coming: larger batches cost less a record."""
    sticky = False
    """Whether it keeps its partitions in a rebalance where it can; not for a worker of several topics."""
    upstream: Sequence[str] = ()
    """Topics of other systems, by their full names."""

    def load(self, alone: bool) -> None:
        """Called once, before `start`, for whatever takes long to load. `alone`: this worker will own all partitions."""
        return

    @abstractmethod
    def start(self, consumer: KafkaConsumer, topic_ids: dict[str, str]) -> None:
        """Called once, with the ids of its topics by short name, which hold for the life of the process."""

    def assigned(self, partitions: list[TopicPartition]) -> None:
        """The worker owns these partitions and no others from now on: none, if it is one too many. It may take long here."""
        return

    def revoked(self, partitions: list[TopicPartition]) -> None:
        """The worker no longer owns these partitions; they may come back, perhaps after another worker had them."""
        return

    @abstractmethod
    def process(self, records: dict[TopicPartition, list[Any]]) -> Done:
        """Process the batch and make it durable, in a few seconds. Raises Retry."""

    @property
    def unfinished(self) -> bool:
        """Whether the worker has work left: then `process` is called again at once, even without new records."""
        return False

    @property
    def loading(self) -> bool:
        """Whether the worker still loads what it was assigned: it is not ready, and may already process a part."""
        return False

    def unread(self) -> dict[TopicPartition, int]:
        """The records that its own consumers have not read, by partition."""
        return {}

    def idle(self) -> None:
        """Called after a poll without records, while the group is joined."""
        return

    @abstractmethod
    def ready(self) -> dict[str, str | int]:
        """The contents of the ready line (`workers.runtime.ready`), after the first assignment."""

    def close(self) -> None:
        """Called once at the end, also after a failure."""
        return
