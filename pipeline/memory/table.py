"""The memories of a namespace by row, and rows by memory id: what a bank holds of each, in as few bytes as can be.

A dictionary of a million objects takes several hundred bytes an entry beside what the entry says. So ids stand in one
array, sixteen bytes each, found by a hash table of row numbers; and records stand in blocks, one behind the other. Rows
are given in order of arrival; of a memory that left the row stays, empty, until the rows are numbered anew. Knows
nothing of what a record says, nor of words.
"""

import re
from array import array
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.memory.record import Kind

_ID = 16  # bytes
_HEX = re.compile(f"[0-9a-f]{{{2 * _ID}}}")
_FREE, _LEFT = -1, -2  # in the hash table
_FULL = 2 / 3  # of the hash table, from which on it is made anew, at most half full
_BLOCK = 32  # records: a change copies a block


class Ids:
    """Which row a memory's id has, and which id a row: seventeen bytes and a slot of the hash table each."""

    def __init__(self) -> None:
        self._raw = bytearray()  # row -> id
        self._slots = array("i", [_FREE]) * 8  # rows, by the hashes of their ids; linear probing
        self._taken = 0  # slots, those of who left among them
        self._held = bytearray()  # row -> whether its memory is still here
        self.is_held = self._held.__getitem__  # for many rows: no function of ours is called
        self.gone = 0  # rows whose memories left

    def __len__(self) -> int:
        """Rows, empty ones among them."""
        return len(self._raw) // _ID

    @property
    def held(self) -> int:
        return len(self) - self.gone

    def add(self, memory_id: str) -> int:
        """The row of an id that is new. Raises ValueError where it is not 32 hex digits."""
        if not _HEX.fullmatch(memory_id):
            raise ValueError(f"{memory_id!r} is no memory id")
        row = len(self)
        self._raw += bytes.fromhex(memory_id)
        self._held.append(True)
        if self._taken >= _FULL * len(self._slots):
            self._rehash()
        else:
            _put(self._slots, memory_id, row)
            self._taken += 1
        return row

    def row(self, memory_id: str) -> int | None:
        slots, raw, mask = self._slots, self._raw, len(self._slots) - 1
        slot = hash(memory_id) & mask
        while (row := slots[slot]) != _FREE:
            if row >= 0 and raw[_ID * row : _ID * row + _ID].hex() == memory_id:
                return row
            slot = slot + 1 & mask
        return None

    def remove(self, memory_id: str) -> int:
        """The row that it had. Raises KeyError for an id that is not held."""
        if (row := self.row(memory_id)) is None:
            raise KeyError(memory_id)
        slot = hash(memory_id) & len(self._slots) - 1
        while self._slots[slot] != row:
            slot = slot + 1 & len(self._slots) - 1
        self._slots[slot] = _LEFT
        self._held[row] = False
        self.gone += 1
        return row

    def __getitem__(self, row: int) -> str:
        """The id of a row; of an empty one the id that it had."""
        return self._raw[_ID * row : _ID * row + _ID].hex()

    def keys(self, rows: NDArray[np.integer[Any]]) -> NDArray[np.uint32]:
        """How the rows' ids begin, as numbers."""
        return np.frombuffer(self._raw, ">u4")[_ID // 4 * rows.astype(np.intp)].astype(np.uint32)

    def are_held(self) -> NDArray[np.bool_]:
        """Of each row whether its memory is here."""
        return np.array(self._held, bool)

    def renumber(self) -> None:
        """Leaves the empty rows out."""
        self._raw = bytearray(np.frombuffer(self._raw, f"V{_ID}")[self.are_held()].tobytes())
        self._held[:] = b"\1" * len(self)
        self.gone = 0
        self._rehash()

    def _rehash(self) -> None:
        size = 8
        while 2 * self.held >= size:
            size *= 2
        self._slots, self._taken = array("i", [_FREE]) * size, self.held
        for row, held in enumerate(self.are_held().tobytes()):
            if held:
                _put(self._slots, self[row], row)


def _put(slots: "array[int]", memory_id: str, row: int) -> None:
    mask = len(slots) - 1
    slot = hash(memory_id) & mask
    while slots[slot] != _FREE:
        slot = slot + 1 & mask
    slots[slot] = row


class Records:
    """Records and kinds by row. Records stand in blocks, for a block is one allocation; a change makes a block anew.

    The record of a memory that left stays until the rows are numbered anew.
    """

    def __init__(self) -> None:
        self._blocks: list[bytes] = []
        self._ends = array("I")  # row -> where its record ends in its block
        self._newest: list[bytes] = []  # of the block that is not full
        self._kinds = array("I")  # row -> number of its kind
        self._numbers: dict[Kind, int] = {}
        self._kind_of: list[Kind] = []

    def add(self, kind: Kind, record: bytes) -> None:
        """The next row."""
        number = self._numbers.setdefault(kind, len(self._kind_of))
        if number == len(self._kind_of):
            self._kind_of.append(kind)
        self._kinds.append(number)
        self._newest.append(record)
        self._ends.append(len(record) + (self._ends[-1] if len(self._newest) > 1 else 0))
        if len(self._newest) == _BLOCK:
            self._blocks.append(b"".join(self._newest))
            self._newest = []

    def kind(self, row: int) -> Kind:
        return self._kind_of[self._kinds[row]]

    def record(self, row: int) -> bytes:
        block, at = row // _BLOCK, row % _BLOCK
        if block == len(self._blocks):
            return self._newest[at]
        return self._blocks[block][self._ends[row - 1] if at else 0 : self._ends[row]]

    def change(self, row: int, record: bytes) -> None:
        block, at = divmod(row, _BLOCK)
        begin, end = self._ends[row - 1] if at else 0, self._ends[row]
        if block == len(self._blocks):
            self._newest[at] = record
        else:
            whole = memoryview(self._blocks[block])
            self._blocks[block] = b"".join((whole[:begin], record, whole[end:]))
        if longer := len(record) - (end - begin):
            for after in range(row, min((block + 1) * _BLOCK, len(self._ends))):
                self._ends[after] += longer

    def only(self, held: NDArray[np.bool_]) -> "Records":
        """Of those rows only, numbered anew. Uses this one up: each block leaves it as it is read."""
        kept = Records()
        for block in range(len(self._blocks) + 1):
            some = range(block * _BLOCK, min((block + 1) * _BLOCK, len(self._ends)))
            for row in some:
                if held[row]:
                    kept.add(self.kind(row), self.record(row))
            if block < len(self._blocks):
                self._blocks[block] = b""
        return kept
