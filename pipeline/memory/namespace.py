"""What a bank holds of one namespace: its memories by row and by id, where their words are, and what it has decided.

What belongs together is changed together here. Knows nothing of how a decision is made.
"""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field

from pipeline.memory.eviction import Categories
from pipeline.memory.postings import Index
from pipeline.memory.record import Memory
from pipeline.memory.table import Records
from pipeline.text.words import terms_of

DEFAULT_CATEGORY = ""


@dataclass(slots=True)
class Namespace:
    index: Index = field(default_factory=Index)  # has the rows, too
    records: Records = field(default_factory=Records)
    least: Categories | None = None  # made for the first eviction: who decides none needs none
    decided: dict[str, int] = field(default_factory=dict)  # SourceOffset.log -> highest offset
    # Oldest first. In a plain dictionary the oldest is searched for behind all that were taken out before it.
    fact_ids: OrderedDict[str, None] = field(default_factory=OrderedDict)
    request_ids: OrderedDict[str, None] = field(default_factory=OrderedDict)  # whose uses are counted

    @property
    def size(self) -> int:
        return self.index.ids.held

    def get(self, memory_id: str) -> Memory | None:
        row = self.index.ids.row(memory_id)
        return None if row is None else Memory.of(memory_id, self.records.kind(row), self.records.record(row))

    def at(self, row: int) -> Memory:
        return Memory.of(self.index.ids[row], self.records.kind(row), self.records.record(row))

    def __iter__(self) -> Iterator[Memory]:
        """Oldest first; while it goes on no memory may come or leave."""
        held = self.index.ids.are_held().tobytes()
        return (self.at(row) for row, here in enumerate(held) if here)

    def put(self, memory: Memory) -> None:
        """In the place of the one that has its id, and as the newest."""
        if known := self.get(memory.memory_id):
            self.remove(known)
        self.index.add(memory.memory_id, terms_of(memory.text))
        self.records.add(memory.kind, memory.record)
        self._weigh(memory)

    def change(self, memory: Memory) -> None:
        """`memory`: what becomes of the one with its id, by `Memory.changed`."""
        self.records.change(self._row(memory.memory_id), memory.record)
        self._weigh(memory)

    def least_of_largest(self, coming: str | None) -> Memory:
        """The least important memory of the category with the most, where one of the category `coming` is about to come."""
        if self.least is None:
            self.least = Categories()
            for memory in self:
                self._weigh(memory)
        return self.at(self._row(self.least.of_largest(coming or DEFAULT_CATEGORY)))

    def _row(self, memory_id: str) -> int:
        row = self.index.ids.row(memory_id)
        assert row is not None
        return row

    def _weigh(self, memory: Memory) -> None:
        if self.least:
            self.least.put(memory.category or DEFAULT_CATEGORY, memory.memory_id, memory.importance)

    def remove(self, memory: Memory) -> None:
        if self.least:
            self.least.remove(memory.category or DEFAULT_CATEGORY, memory.memory_id)
        held = self.index.remove(memory.memory_id, terms_of(memory.text))
        if held is not None:
            self.records = self.records.only(held)
