"""A memory, packed into bytes, whose fields are decoded when they are read.

A bank holds hundreds of thousands of memories, and a prompt reads few fields of some hundreds of them.
"""

import inspect
import struct
from datetime import UTC, datetime, timedelta
from struct import Struct
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Kind(NamedTuple):
    """Fields that many memories of a namespace have in common. A namespace holds each combination once."""

    namespace: str
    encoder_id: str
    category: str | None
    source: str | None
    cardinality: str | None


class Memory:
    """One memory, immutable: `changed` returns another one."""

    __slots__ = ("_begin", "_end", "kind", "memory_id", "record", "words")

    memory_id: str
    kind: Kind
    record: bytes
    words: int
    _begin: int  # of the numbers in the record, bytes
    _end: int  # of the numbers

    def __init__(
        self,
        *,
        memory_id: str,
        namespace: str,
        text: str,
        observed_at: datetime,
        learned_at: datetime,
        importance: float,  # log2, undecayed
        loss_delta: float,
        encoder_id: str,
        priors: NDArray[np.float32],  # [words]
        surprisals: NDArray[np.float32],  # [words]
        vectors: NDArray[np.uint8],  # [words, bytes of a packed state]
        category: str | None = None,
        source: str | None = None,
        fact_id: str | None = None,
        key: str | None = None,
        cardinality: str | None = None,
        metadata: str | None = None,  # a JSON object
        valid_until: datetime | None = None,
        uses: int = 0,
        reinforced: int = 0,
        last_used_at: datetime | None = None,
    ) -> None:
        """`last_used_at` is for queries: no decision depends on it, and replicas do not have it.

        Raises ValueError for a count or a length that the record cannot hold: 32 bits, 16 for fact_id, key and metadata.
        """
        labels = [None if label is None else label.encode() for label in (fact_id, key, metadata)]
        text_bytes = text.encode()
        lengths = (
            len(priors),
            len(text_bytes),
            *(0 if label is None else len(label) + 1 for label in labels),
        )
        try:
            life = _pack_life(uses, reinforced, _NEVER if last_used_at is None else _micros(last_used_at))
            head = _HEAD.pack(
                _micros(observed_at),
                _micros(learned_at),
                _NEVER if valid_until is None else _micros(valid_until),
                importance,
                loss_delta,
                *lengths,
                len(life),
            )
        except struct.error as error:
            raise ValueError(f"memory {memory_id} cannot be held: {error}") from None
        numbers = (priors.tobytes(), surprisals.tobytes(), vectors.tobytes())
        self._set(
            memory_id,
            Kind(namespace, encoder_id, category, source, cardinality),
            b"".join((head, life, *numbers, *(label or b"" for label in labels), text_bytes)),
        )

    def _set(self, memory_id: str, kind: Kind, record: bytes) -> None:
        self.memory_id, self.kind, self.record = memory_id, kind, record
        self.words, text, *labels, life = _LENGTHS.unpack_from(record, _LENGTHS_AT)
        self._begin = _HEAD.size + life
        self._end = len(record) - text - sum(length and length - 1 for length in labels)

    @classmethod
    def of(cls, memory_id: str, kind: Kind, record: bytes) -> "Memory":
        """The memory whose `record` this is."""
        memory = cls.__new__(cls)
        memory._set(memory_id, kind, record)
        return memory

    def changed(
        self,
        importance: float,
        observed_at: datetime | None = None,
        last_used_at: datetime | None = None,
        uses: int = 0,
        reinforced: int = 0,
    ) -> "Memory":
        """The memory after more uses and confirmations: with a new importance, and with later times where they are given."""
        observed, learned, until, _, loss_delta, *lengths, _ = _HEAD.unpack_from(self.record)
        used_before, reinforced_before, used = self._unpack_life()
        if observed_at is not None:
            observed = max(observed, _micros(observed_at))
        if last_used_at is not None:
            used = max(used, _micros(last_used_at))
        life = _pack_life(used_before + uses, reinforced_before + reinforced, used)
        head = _HEAD.pack(observed, learned, until, importance, loss_delta, *lengths, len(life))
        return Memory.of(self.memory_id, self.kind, b"".join((head, life, self.record[self._begin :])))

    def restated(self, metadata: str | None, valid_until: datetime | None) -> "Memory":
        """The memory with the metadata and the end of a newer statement."""
        if (metadata, valid_until) == (self.metadata, self.valid_until):
            return self
        own = {name: getattr(self, name) for name in _FIELDS}
        return Memory(**own | {"metadata": metadata, "valid_until": valid_until})

    def _unpack_life(self) -> tuple[int, int, int]:
        """Uses, reinforced, last used in microseconds."""
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
    def cardinality(self) -> str | None:
        return self.kind.cardinality

    @property
    def is_single(self) -> bool:
        """Whether it has a key that has one value at a time."""
        return self.cardinality != "many" and self.key is not None

    @property
    def observed_at(self) -> datetime:
        return _time(_HEAD.unpack_from(self.record)[0])

    @property
    def learned_at(self) -> datetime:
        return _time(_HEAD.unpack_from(self.record)[1])

    @property
    def valid_until(self) -> datetime | None:
        until = _HEAD.unpack_from(self.record)[2]
        return None if until == _NEVER else _time(until)

    @property
    def importance(self) -> float:
        return float(_HEAD.unpack_from(self.record)[3])

    @property
    def loss_delta(self) -> float:
        return float(_HEAD.unpack_from(self.record)[4])

    @property
    def uses(self) -> int:
        return self._unpack_life()[0]

    @property
    def reinforced(self) -> int:
        return self._unpack_life()[1]

    @property
    def last_used_at(self) -> datetime | None:
        at = self._unpack_life()[2]
        return None if at == _NEVER else _time(at)

    @property
    def fact_id(self) -> str | None:
        return self._label(0)

    @property
    def key(self) -> str | None:
        return self._label(1)

    @property
    def metadata(self) -> str | None:
        return self._label(2)

    def _label(self, number: int) -> str | None:
        """One of the optional texts at `_end`."""
        lengths = _LENGTHS.unpack_from(self.record, _LENGTHS_AT)[2:5]
        if not lengths[number]:
            return None
        begin = self._end + sum(length and length - 1 for length in lengths[:number])
        return self.record[begin : begin + lengths[number] - 1].decode()

    @property
    def text(self) -> str:
        length = _LENGTHS.unpack_from(self.record, _LENGTHS_AT)[1]
        return self.record[len(self.record) - length :].decode()

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
        """The packed states of all words, concatenated."""
        return self.record[self._begin + 8 * self.words : self._end]


# Layout of a record:
#   head       three times (observed, learned, end; microseconds since 1970), importance, loss delta, and the lengths: words,
#              bytes of the text, bytes of fact_id, key and metadata plus one each (0 without), bytes of the life
#   life       uses, reinforced, last used; empty for a memory without any, as most are
#   numbers    priors, surprisals and packed states, aligned to four bytes
#   fact_id, key, metadata, text
_LENGTHS, _LIFE = Struct("<2I3HB"), Struct("<2Iq")
_HEAD = Struct("<3q2d2I3HBx")
_LENGTHS_AT = _HEAD.size - _LENGTHS.size - 1
_FIELDS = [name for name in inspect.signature(Memory.__init__).parameters if name != "self"]
_NEVER = -(2**63)
_EPOCH, _MICROSECOND = datetime(1970, 1, 1, tzinfo=UTC), timedelta(microseconds=1)


def _pack_life(uses: int, reinforced: int, last_used: int) -> bytes:
    return b"" if (uses, reinforced, last_used) == (0, 0, _NEVER) else _LIFE.pack(uses, reinforced, last_used)


def _micros(at: datetime) -> int:
    return (at - _EPOCH) // _MICROSECOND


def _time(micros: int) -> datetime:
    return _EPOCH + timedelta(microseconds=micros)
