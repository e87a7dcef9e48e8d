"""Events that change a memory: new facts, requests to forget or to restore, and decisions."""

from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.ingest.encoding import FactEncoding
from schemas.common import metadata_text


@dataclass(frozen=True, slots=True)
class SourceOffset:
    """The Kafka record that caused an event: each record is decided once. After a wipe a broker's topics have new ids."""

    topic: str
    topic_id: str
    partition: int
    offset: int

    @property
    def log(self) -> str:
        """The partition's log; offsets are comparable within one log only."""
        return f"{self.topic}/{self.topic_id}/{self.partition}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """Fields that a system attaches to its fact, copied unchanged from the message to the history and the memory."""

    category: str | None = None
    source: str | None = None
    fact_id: str | None = None
    key: str | None = None
    cardinality: str | None = None  # "many"; otherwise the key has one value at a time
    metadata: str | None = None  # a JSON object
    valid_until: datetime | None = None

    @property
    def is_single(self) -> bool:
        """Whether it has a key that has one value at a time."""
        return self.key is not None and self.cardinality != "many"


def labels_of(fact: object) -> dict[str, Any]:
    """The labels of a schemas.fact.Fact, a NewFact, a Memory or a Decision, as keyword arguments for another of them."""
    labels = {field.name: getattr(fact, field.name) for field in fields(Labels)}
    if isinstance(labels["metadata"], dict):  # a message has an object
        labels["metadata"] = metadata_text(labels["metadata"])
    return labels


@dataclass(frozen=True, slots=True)
class NewFact(Labels):
    """An encoded fact, ready to be decided."""

    namespace: str
    encoding: FactEncoding
    observed_at: datetime
    published_at: datetime
    cause: SourceOffset
    min_loss_delta: float | None = None  # the fact's own threshold


@dataclass(frozen=True, slots=True)
class ForgetRequest:
    """A request to remove a memory, or what a key states, or without either all memories of the namespace.

    Decided in order with the facts of its namespace.
    """

    namespace: str
    memory_id: str | None
    erase: bool  # take the text out of the data folder, too
    published_at: datetime
    cause: SourceOffset
    key: str | None = None
    observed_at: datetime | None = None
    """What was observed later stays; None: nothing stays."""
    fact_id: str | None = None


@dataclass(frozen=True, slots=True)
class RestoreRequest:
    """A request to bring back a superseded memory, decided in order with the facts of its namespace."""

    namespace: str
    memory_id: str
    published_at: datetime
    cause: SourceOffset


@dataclass(frozen=True, slots=True)
class NothingStated:
    """A conversation that states nothing: its record is decided all the same."""

    namespace: str
    published_at: datetime
    cause: SourceOffset


Event = NewFact | ForgetRequest | RestoreRequest | NothingStated


@dataclass(frozen=True, slots=True)
class Decision(Labels):
    """One row of the history: the columns of schemas.history.HISTORY, with those of the source record in `cause`."""

    namespace: str
    outcome: str
    cause: SourceOffset
    decided_at: datetime
    memory_id: str | None = None
    nearest: str | None = None
    similarity: float | None = None
    rule: str | None = None  # by which it was decided
    text: str | None = None
    observed_at: datetime | None = None
    dated: datetime | None = None  # the fact's own time, where it lies too far in the future to be taken
    published_at: datetime | None = None
    base_loss: float | None = None
    recall_loss: float | None = None
    loss_delta: float | None = None
    min_loss_delta: float | None = None
    importance: float | None = None
    gate: float | None = None
    request_id: str | None = None
    encoder_id: str | None = None
    priors: NDArray[np.float32] | None = None  # [words]
    surprisals: NDArray[np.float32] | None = None  # [words]
    vectors: NDArray[np.uint8] | None = None  # [words, bytes of a packed state]
