"""Compact table of a namespace's memories: packed records by row number, and row numbers by memory id.

A dictionary of a million objects takes several hundred bytes an entry besides the objects. Here the ids are in one array,
sixteen bytes each, and are found through a hash table of row numbers; the records are in blocks of many. Rows are numbered
in order of arrival. A removed memory leaves its row empty, until `compact` drops the empty rows and renumbers the others.
"""

import re
from array import array
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.memory.record import Kind, Memory

_ID = 16  # bytes
_HEX = re.compile(f"[0-9a-f]{{{2 * _ID}}}")
_EMPTY, _DELETED = -1, -2  # hash slots without a row
_MAX_LOAD = 2 / 3  # share of used hash slots from which the hash table is rebuilt, at most half full
_BLOCK = 32  # records of a block, which is copied when one of them changes
_MAX_REMOVED = 0.2  # share of empty rows from which compacting is due
_MIN_REMOVED = 1024  # fewer empty rows are never worth it


class Table:
    """Memory ids and records, in step: both are added, removed and renumbered together."""

    def __init__(self) -> None:
        self._ids = bytearray()  # row -> id, _ID bytes each
        self._slots = array("i", [_EMPTY]) * 8  # rows, by the hashes of their ids; linear probing
        self._used = 0  # slots that are not _EMPTY
        self._present = bytearray()  # row -> whether its memory is still here
        # Bound once, so that filters over many rows call no Python function.
        self.is_present = self._present.__getitem__
        self.removed = 0  # empty rows
        self._records = _Records()

    def __len__(self) -> int:
        """Rows, empty ones included."""
        return len(self._present)

    @property
    def size(self) -> int:
        """The number of memories."""
        return len(self) - self.removed

    def __iter__(self) -> Iterator[Memory]:
        """Oldest first. No memory may be added or removed meanwhile."""
        present = bytes(self._present)
        return (self.at(row) for row, here in enumerate(present) if here)

    def at(self, row: int) -> Memory:
        """The memory of a row; of an empty row the one that it had."""
        return Memory.of(self.id_of(row), self._records.kind(row), self._records.record(row))

    def get(self, memory_id: str) -> Memory | None:
        """The memory of this id, if it is here."""
        row = self.row(memory_id)
        return (
            None if row is None else Memory.of(memory_id, self._records.kind(row), self._records.record(row))
        )

    def row(self, memory_id: str) -> int | None:
        """The row of a memory, if it is here."""
        slots, ids, mask = self._slots, self._ids, len(self._slots) - 1
        slot = hash(memory_id) & mask
        while (row := slots[slot]) != _EMPTY:
            if row >= 0 and ids[_ID * row : _ID * row + _ID].hex() == memory_id:
                return row
            slot = slot + 1 & mask
        return None

    def id_of(self, row: int) -> str:
        """The memory id of a row; of an empty row the id that it had."""
        return self._ids[_ID * row : _ID * row + _ID].hex()

    def id_prefixes(self, rows: NDArray[np.integer[Any]]) -> NDArray[np.uint32]:
        """The first 32 bits of the rows' ids, which order rows independently of their arrival."""
        return np.frombuffer(self._ids, ">u4")[_ID // 4 * rows.astype(np.intp)].astype(np.uint32)

    def present(self) -> NDArray[np.bool_]:
        """[rows] whether each row's memory is still here."""
        return np.array(self._present, bool)

    def add(self, memory: Memory) -> int:
        """Adds a memory with a new id, and returns its row. Raises ValueError for an id that is not 32 hex digits."""
        if not _HEX.fullmatch(memory.memory_id):
            raise ValueError(f"{memory.memory_id!r} is not a memory id")
        row = len(self)
        self._ids += bytes.fromhex(memory.memory_id)
        self._present.append(True)
        if self._used >= _MAX_LOAD * len(self._slots):
            self._rehash()
        else:
            _insert(self._slots, memory.memory_id, row)
            self._used += 1
        self._records.add(memory.kind, memory.record)
        return row

    def change(self, memory: Memory) -> None:
        """Replaces the record of the memory that has this id. Raises KeyError for an unknown id."""
        if (row := self.row(memory.memory_id)) is None:
            raise KeyError(memory.memory_id)
        self._records.change(row, memory.record)

    def remove(self, memory_id: str) -> int:
        """Removes a memory, and returns its row, which is empty from now on. Raises KeyError for an unknown id."""
        if (row := self.row(memory_id)) is None:
            raise KeyError(memory_id)
        slot = hash(memory_id) & len(self._slots) - 1
        while self._slots[slot] != row:
            slot = slot + 1 & len(self._slots) - 1
        self._slots[slot] = _DELETED
        self._present[row] = False
        self.removed += 1
        return row

    @property
    def is_sparse(self) -> bool:
        """Whether so many rows are empty that compacting is worth its time."""
        return self.removed > max(_MIN_REMOVED, _MAX_REMOVED * len(self))

    def compact(self) -> NDArray[np.bool_]:
        """Drops the empty rows and renumbers the others.

        Returns [old rows] whether each was kept, for indexes that hold row numbers.
        """
        kept = self.present()
        self._records = self._records.select(kept)
        self._ids = bytearray(np.frombuffer(self._ids, f"V{_ID}")[kept].tobytes())
        self._present[:] = b"\1" * int(np.count_nonzero(kept))
        self.removed = 0
        self._rehash()
        return kept

    def _rehash(self) -> None:
        slots = 8
        while 2 * self.size >= slots:
            slots *= 2
        self._slots, self._used = array("i", [_EMPTY]) * slots, self.size
        for row, here in enumerate(bytes(self._present)):
            if here:
                _insert(self._slots, self.id_of(row), row)


def _insert(slots: "array[int]", memory_id: str, row: int) -> None:
    mask = len(slots) - 1
    slot = hash(memory_id) & mask
    while slots[slot] != _EMPTY:
        slot = slot + 1 & mask
    slots[slot] = row


class _Records:
    """Records and kinds by row. A block of records is one allocation, so an entry costs few bytes besides its record."""

    def __init__(self) -> None:
        self._blocks: list[bytes] = []  # full ones
        self._last: list[bytes] = []  # the records of the block that is not full yet
        self._ends = array("I")  # row -> end of its record in its block
        self._kinds = array("I")  # row -> number of its kind
        self._kind_numbers: dict[Kind, int] = {}
        self._kind_of_number: list[Kind] = []

    def add(self, kind: Kind, record: bytes) -> None:
        """Adds the next row."""
        number = self._kind_numbers.setdefault(kind, len(self._kind_of_number))
        if number == len(self._kind_of_number):
            self._kind_of_number.append(kind)
        self._kinds.append(number)
        self._last.append(record)
        self._ends.append(len(record) + (self._ends[-1] if len(self._last) > 1 else 0))
        if len(self._last) == _BLOCK:
            self._blocks.append(b"".join(self._last))
            self._last = []

    def kind(self, row: int) -> Kind:
        return self._kind_of_number[self._kinds[row]]

    def record(self, row: int) -> bytes:
        block, place = row // _BLOCK, row % _BLOCK
        if block == len(self._blocks):
            return self._last[place]
        return self._blocks[block][self._ends[row - 1] if place else 0 : self._ends[row]]

    def change(self, row: int, record: bytes) -> None:
        block, place = divmod(row, _BLOCK)
        begin, end = self._ends[row - 1] if place else 0, self._ends[row]
        if block == len(self._blocks):
            self._last[place] = record
        else:
            whole = memoryview(self._blocks[block])
            self._blocks[block] = b"".join((whole[:begin], record, whole[end:]))
        if growth := len(record) - (end - begin):
            for later in range(row, min((block + 1) * _BLOCK, len(self._ends))):
                self._ends[later] += growth

    def select(self, kept: NDArray[np.bool_]) -> "_Records":
        """A copy of these rows alone, renumbered. Frees each block once it is copied, and leaves this object unusable."""
        selected = _Records()
        for block in range(len(self._blocks) + 1):
            for row in range(block * _BLOCK, min((block + 1) * _BLOCK, len(self._ends))):
                if kept[row]:
                    selected.add(self.kind(row), self.record(row))
            if block < len(self._blocks):
                self._blocks[block] = b""
        return selected
