"""The interface of a worker: what the loop calls, when, and what it returns."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from workers.kafka import KafkaConsumer, TopicPartition


class Retry(Exception):
    """Retry the batch: the worker drops its partitions' state, loads it again, and the batch is read again."""


@dataclass(frozen=True)
class Done:
    """A batch is durable, and its offsets may be committed. `fields` go on its log line.

    `offsets` are the next ones to read, for a worker that did less than the whole batch; the rest of it is read again.
    With `ahead` the worker keeps the rest and finishes it later: exactly `offsets` are committed, and nothing is read again.
    """

    fields: dict[str, object]
    offsets: dict[TopicPartition, int] | None = None
    ahead: bool = False


class Worker(ABC):
    """A process's work on its topics. All methods are called on the main thread, in the order `load`, `start`, then the
    others. `topics` are short names; a TopicPartition carries the full one."""

    name: str
    topics: Sequence[str]

    def load(self, alone: bool) -> None:
        """Once, before `start`: load what takes long. `alone` says that all partitions will be this worker's."""
        return

    @abstractmethod
    def start(self, consumer: KafkaConsumer, topic_ids: dict[str, str]) -> None:
        """Once, with the ids of all topics by short name: they hold for this process."""

    def assigned(self, partitions: list[TopicPartition]) -> None:
        """The worker owns these partitions from now on. May take long."""
        return

    def revoked(self, partitions: list[TopicPartition]) -> None:
        """The worker owns these no longer; they may come back at once, or after another worker had them."""
        return

    @abstractmethod
    def process(self, records: dict[TopicPartition, list[Any]]) -> Done:
        """Do the batch and make it durable, in a few seconds. Raises Retry."""

    @property
    def unfinished(self) -> bool:
        """Whether the worker has work in hand: then `process` is called again at once, with no records if none came."""
        return False

    def idle(self) -> None:
        """A poll brought nothing, and the group is joined."""
        return

    @abstractmethod
    def ready(self) -> dict[str, str | int]:
        """The facts of the supervisor's ready line, after the first assignment."""

    def close(self) -> None:
        """Once, at the end, however it came."""
        return
