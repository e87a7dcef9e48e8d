"""What the bank is told, what it decides, and what it keeps: facts, decisions and memories as plain records.

Knows their fields; knows nothing of how a decision is made.
"""

from dataclasses import dataclass
from datetime import datetime
from sys import intern

import numpy as np
from numpy.typing import NDArray

from pipeline.encoding import Encoding


@dataclass(frozen=True, slots=True)
class Cause:
    """The record that a decision answers: by it each is decided once. The topic id tells a wiped broker's from a new one's."""

    topic: str
    topic_id: str
    partition: int
    offset: int

    @property
    def log(self) -> str:
        return f"{self.topic}/{self.topic_id}/{self.partition}"


@dataclass(frozen=True, slots=True)
class NewFact:
    namespace: str
    encoding: Encoding
    observed_at: datetime
    published_at: datetime
    cause: Cause
    category: str | None = None
    source: str | None = None
    fact_id: str | None = None
    min_loss_delta: float | None = None


@dataclass(frozen=True, slots=True)
class Decision:
    """One row of the history (schemas.history.HISTORY)."""

    namespace: str
    outcome: str
    cause: Cause
    decided_at: datetime
    memory_id: str | None = None
    nearest: str | None = None
    similarity: float | None = None
    text: str | None = None
    category: str | None = None
    source: str | None = None
    fact_id: str | None = None
    observed_at: datetime | None = None
    published_at: datetime | None = None
    base_loss: float | None = None
    recall_loss: float | None = None
    loss_delta: float | None = None
    min_loss_delta: float | None = None
    importance: float | None = None
    gate: float | None = None
    request_id: str | None = None
    encoder_id: str | None = None
    priors: NDArray[np.float32] | None = None
    surprisals: NDArray[np.float32] | None = None
    vectors: NDArray[np.uint8] | None = None


@dataclass(slots=True)
class Memory:
    memory_id: str
    namespace: str
    text: str
    category: str | None
    source: str | None
    fact_id: str | None
    observed_at: datetime
    learned_at: datetime
    importance: float  # log2, undecayed: see Bank._raised
    uses: int
    reinforced: int
    loss_delta: float
    encoder_id: str
    words: int
    numbers: bytes  # priors, surprisals and states as `packed` lays them out: three arrays would take 400 bytes more
    last_used_at: datetime | None = None  # for queries: no decision heeds it, and a replica does not know it

    def __post_init__(self) -> None:
        # A million memories share these.
        self.namespace, self.encoder_id = intern(self.namespace), intern(self.encoder_id)
        self.category = intern(self.category) if self.category is not None else None

    @property
    def priors(self) -> NDArray[np.float32]:
        """[words] nats."""
        return np.frombuffer(self.numbers, np.float32, self.words)

    @property
    def surprisals(self) -> NDArray[np.float32]:
        """[words] nats."""
        return np.frombuffer(self.numbers, np.float32, self.words, 4 * self.words)

    @property
    def vectors(self) -> NDArray[np.uint8]:
        """[words, bytes of a packed state]."""
        states = np.frombuffer(self.states, np.uint8)
        return states.reshape(self.words, -1 if self.words else 0)

    @property
    def states(self) -> bytes:
        """The packed states of all words, one behind the other."""
        return self.numbers[8 * self.words :]


def packed(
    priors: NDArray[np.float32], surprisals: NDArray[np.float32], vectors: NDArray[np.uint8]
) -> tuple[int, bytes]:
    """A memory's `words` and `numbers`."""
    return len(priors), b"".join(array.tobytes() for array in (priors, surprisals, vectors))
