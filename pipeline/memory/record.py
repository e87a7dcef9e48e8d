"""What the bank is told, what it decides, and what it keeps: facts, decisions and memories as plain records.

Knows their fields; knows nothing of how a decision is made.
"""

import struct
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from struct import Struct
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.ingest.encoding import Encoding


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


class Kind(NamedTuple):
    """What many memories of a namespace have in common: each of these is held once."""

    namespace: str
    encoder_id: str
    category: str | None
    source: str | None


class Memory:
    """One memory, as it stands; it never changes: `changed` makes another one.

    A bank holds hundreds of thousands, and retrieval looks at hundreds a prompt but at few fields of each. So a memory is
    its record, bytes one behind the other, of which a field is read when it is asked for.
    """

    __slots__ = ("_begin", "_end", "kind", "memory_id", "record", "words")

    memory_id: str
    kind: Kind
    record: bytes
    words: int
    _begin: int  # of its numbers in the record
    _end: int

    def __init__(
        self,
        memory_id: str,
        namespace: str,
        text: str,
        category: str | None,
        source: str | None,
        fact_id: str | None,
        observed_at: datetime,
        learned_at: datetime,
        importance: float,  # log2, undecayed: see Bank._raised
        uses: int,
        reinforced: int,
        loss_delta: float,
        encoder_id: str,
        words: int,
        numbers: bytes,  # priors, surprisals and states as `packed` lays them out
        last_used_at: datetime | None = None,
    ) -> None:
        """`last_used_at` is for queries: no decision heeds it, and a replica does not know it.

        Raises ValueError for a count or a length that the record does not hold: 32 bits, of a fact_id 16.
        """
        said, fact = text.encode(), b"" if fact_id is None else fact_id.encode()
        lengths = (words, len(said), 0 if fact_id is None else len(fact) + 1)
        try:
            life = _life(uses, reinforced, _NEVER if last_used_at is None else _micros(last_used_at))
            head = _HEAD.pack(
                _micros(observed_at), _micros(learned_at), importance, loss_delta, *lengths, len(life)
            )
        except struct.error as error:
            raise ValueError(f"memory {memory_id} cannot be held: {error}") from None
        self._take(
            memory_id,
            Kind(namespace, encoder_id, category, source),
            b"".join((head, life, numbers, fact, said)),
        )

    def _take(self, memory_id: str, kind: Kind, record: bytes) -> None:
        self.memory_id, self.kind, self.record = memory_id, kind, record
        self.words, said, fact, life = _LENGTHS.unpack_from(record, _LENGTHS_AT)
        self._begin = _HEAD.size + life
        self._end = len(record) - said - (fact and fact - 1)

    @classmethod
    def of(cls, memory_id: str, kind: Kind, record: bytes) -> "Memory":
        """The memory that had this record."""
        memory = cls.__new__(cls)
        memory._take(memory_id, kind, record)
        return memory

    def changed(
        self,
        importance: float,
        observed_at: datetime | None = None,
        last_used_at: datetime | None = None,
        uses: int = 0,
        reinforced: int = 0,
    ) -> "Memory":
        """After so many more uses and confirmations, with another importance, and later times where these are given."""
        observed, learned, _, loss_delta, *lengths, _ = _HEAD.unpack_from(self.record)
        used_before, reinforced_before, used = self._life()
        if observed_at is not None:
            observed = max(observed, _micros(observed_at))
        if last_used_at is not None:
            used = max(used, _micros(last_used_at))
        life = _life(used_before + uses, reinforced_before + reinforced, used)
        head = _HEAD.pack(observed, learned, importance, loss_delta, *lengths, len(life))
        return Memory.of(self.memory_id, self.kind, b"".join((head, life, self.record[self._begin :])))

    def _life(self) -> tuple[int, int, int]:
        """Uses, reinforced, last used."""
        if self._begin == _HEAD.size:
            return 0, 0, _NEVER
        uses, reinforced, last_used = _LIFE.unpack_from(self.record, _HEAD.size)
        return uses, reinforced, last_used

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Memory):
            return NotImplemented
        return (self.memory_id, self.kind, self.record) == (other.memory_id, other.kind, other.record)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Memory({self.memory_id!r}, {self.namespace!r}, {self.text!r})"

    @property
    def namespace(self) -> str:
        return self.kind.namespace

    @property
    def encoder_id(self) -> str:
        return self.kind.encoder_id

    @property
    def category(self) -> str | None:
        return self.kind.category

    @property
    def source(self) -> str | None:
        return self.kind.source

    @property
    def observed_at(self) -> datetime:
        return _time(_HEAD.unpack_from(self.record)[0])

    @property
    def learned_at(self) -> datetime:
        return _time(_HEAD.unpack_from(self.record)[1])

    @property
    def importance(self) -> float:
        return float(_HEAD.unpack_from(self.record)[2])

    @property
    def loss_delta(self) -> float:
        return float(_HEAD.unpack_from(self.record)[3])

    @property
    def uses(self) -> int:
        return self._life()[0]

    @property
    def reinforced(self) -> int:
        return self._life()[1]

    @property
    def last_used_at(self) -> datetime | None:
        at = self._life()[2]
        return None if at == _NEVER else _time(at)

    @property
    def fact_id(self) -> str | None:
        fact = _LENGTHS.unpack_from(self.record, _LENGTHS_AT)[2]
        return self.record[self._end : self._end + fact - 1].decode() if fact else None

    @property
    def text(self) -> str:
        said = _LENGTHS.unpack_from(self.record, _LENGTHS_AT)[1]
        return self.record[len(self.record) - said :].decode()

    @property
    def numbers(self) -> bytes:
        """Priors, surprisals and states as `packed` lays them out."""
        return self.record[self._begin : self._end]

    @property
    def priors(self) -> NDArray[np.float32]:
        """[words] nats."""
        return np.frombuffer(self.record, np.float32, self.words, self._begin)

    @property
    def surprisals(self) -> NDArray[np.float32]:
        """[words] nats."""
        return np.frombuffer(self.record, np.float32, self.words, self._begin + 4 * self.words)

    @property
    def vectors(self) -> NDArray[np.uint8]:
        """[words, bytes of a packed state]."""
        states = np.frombuffer(self.record, np.uint8)[self._begin + 8 * self.words : self._end]
        return states.reshape(self.words, -1 if self.words else 0)

    @property
    def states(self) -> bytes:
        """The packed states of all words, one behind the other."""
        return self.record[self._begin + 8 * self.words : self._end]


def packed(
    priors: NDArray[np.float32], surprisals: NDArray[np.float32], vectors: NDArray[np.uint8]
) -> tuple[int, bytes]:
    """A memory's `words` and `numbers`."""
    return len(priors), b"".join(array.tobytes() for array in (priors, surprisals, vectors))


# A record begins with two times (observed, learned; microseconds since 1970), importance and loss delta, and lengths: words,
# bytes of the text, of the fact_id and one, or 0 where there is none, and of its life. That is uses, reinforced and last
# used, and most have none. Numbers follow, where a processor likes to find them (at a multiple of four), fact_id, text.
_LENGTHS, _LIFE = Struct("<2IHB"), Struct("<2Iq")
_HEAD = Struct("<2q2d2IHBx")
_LENGTHS_AT = _HEAD.size - _LENGTHS.size - 1
_NEVER = -(2**63)
_EPOCH, _MICROSECOND = datetime(1970, 1, 1, tzinfo=UTC), timedelta(microseconds=1)


def _life(uses: int, reinforced: int, last_used: int) -> bytes:
    return b"" if (uses, reinforced, last_used) == (0, 0, _NEVER) else _LIFE.pack(uses, reinforced, last_used)


def _micros(at: datetime) -> int:
    return (at - _EPOCH) // _MICROSECOND


def _time(micros: int) -> datetime:
    return _EPOCH + timedelta(microseconds=micros)
