"""State of one namespace: its memories, the indexes that find them, and what was decided so far.

The table and the indexes refer to memories by row number or id, so they are changed together, here.
"""

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import NamedTuple

from pipeline.memory.eviction import EvictionHeaps
from pipeline.memory.keys import KeyIndex
from pipeline.memory.pooled import PooledIndex
from pipeline.memory.postings import Postings
from pipeline.memory.record import Memory
from pipeline.memory.table import Table
from pipeline.text.words import terms_of

DEFAULT_CATEGORY = ""


class Superseded(NamedTuple):
    """A memory that speaks no longer, and can be restored."""

    memory: Memory
    by: str
    """The id of the memory that superseded it."""
    rule: str | None


class Namespace:
    """The state; at first without memories. The arguments restore `Bank.decided_state` from a checkpoint."""

    def __init__(
        self,
        decided: Mapping[str, int] | None = None,
        fact_ids: Iterable[str] = (),
        request_ids: Iterable[str] = (),
        ended_keys: Iterable[tuple[str, str]] = (),
    ) -> None:
        self.table = Table()
        self.postings = Postings(self.table)
        self.pooled = PooledIndex(self.table)
        self._heaps: EvictionHeaps | None = None  # made for the first eviction: a replica never evicts
        self._keys: KeyIndex | None = None  # made for the first keyed fact: a replica decides none
        self._ends: dict[str, datetime] = {}  # memory id -> valid_until, where there is one
        self._next_end: datetime | None = None  # no memory ends before
        self.decided = dict(decided or {})  # SourceOffset.log -> highest offset
        # Oldest first. A plain dictionary would search for its oldest key past all deleted ones.
        self.fact_ids = OrderedDict.fromkeys(fact_ids)
        self.request_ids = OrderedDict.fromkeys(request_ids)  # requests whose uses are counted
        self.superseded: OrderedDict[str, Superseded] = OrderedDict()  # changed by `keep` and `unkeep`
        self._superseded_keys = KeyIndex()
        # Key -> time: what it stated before is over, though no memory of the key tells.
        self.ended_keys = OrderedDict((key, datetime.fromisoformat(at)) for key, at in ended_keys)

    @property
    def size(self) -> int:
        """The number of memories."""
        return self.table.size

    @property
    def has_ends(self) -> bool:
        """Whether a memory may be valid until some time only."""
        return self._next_end is not None

    def of_key(self, key: str) -> list[Memory]:
        """The memories that a key states, oldest first."""
        if self._keys is None:
            self._keys = KeyIndex()
            for memory in self.table:
                self._keys.add(memory)
        return [memory for memory in map(self.table.get, self._keys.get(key)) if memory]

    def put(self, memory: Memory) -> None:
        """Adds a memory as the newest, in place of the one that has its id."""
        if known := self.table.get(memory.memory_id):
            self.remove(known)
        self.unkeep(memory.memory_id)
        self.postings.add(self.table.add(memory), terms_of(memory.text))
        if self._keys:
            self._keys.add(memory)
        self._changed(memory)

    def change(self, memory: Memory) -> None:
        """Replaces the memory that has this id by the result of its `Memory.changed`."""
        self.table.change(memory)
        self._changed(memory)

    def remove(self, memory: Memory) -> None:
        if self._heaps:
            self._heaps.remove(memory.category or DEFAULT_CATEGORY, memory.memory_id)
        if self._keys:
            self._keys.remove(memory)
        self._ends.pop(memory.memory_id, None)
        self.postings.remove(self.table.remove(memory.memory_id), terms_of(memory.text))
        if self.table.is_sparse:
            kept = self.table.compact()
            self.postings.renumber(kept)
            self.pooled.renumber(kept)

    def supersede(self, memory: Memory, by: str, rule: str | None, kept: int) -> None:
        """Removes a memory, and keeps it among the newest `kept` that can be restored."""
        self.remove(memory)
        self.keep(Superseded(memory, by, rule))
        if len(self.superseded) > kept:
            self.unkeep(next(iter(self.superseded)))

    def keep(self, superseded: Superseded) -> None:
        """Adds a memory that can be restored."""
        self.superseded[superseded.memory.memory_id] = superseded
        self._superseded_keys.add(superseded.memory)

    def unkeep(self, memory_id: str) -> Superseded | None:
        """Removes and returns a memory that could be restored; None if it could not."""
        if entry := self.superseded.pop(memory_id, None):
            self._superseded_keys.remove(entry.memory)
        return entry

    def superseded_of_key(self, key: str) -> list[Memory]:
        """The superseded memories that a key stated."""
        return [self.superseded[memory_id].memory for memory_id in self._superseded_keys.get(key)]

    def end_key(self, key: str, at: datetime, kept: int) -> None:
        """Remembers, for the newest `kept` keys, that what the key stated before `at` is over."""
        self.ended_keys[key] = max(at, self.ended_keys.pop(key, at))
        if len(self.ended_keys) > kept:
            self.ended_keys.popitem(last=False)

    def expire(self, now: datetime) -> None:
        """Removes the memories that are valid no longer."""
        if self._next_end is None or now < self._next_end:
            return
        for memory_id in [memory_id for memory_id, until in self._ends.items() if until <= now]:
            if memory := self.table.get(memory_id):
                self.remove(memory)
        self._next_end = min(self._ends.values(), default=None)

    def least_important(self, category: str | None) -> Memory:
        """The least important memory of the largest category, where `category` is about to grow by one."""
        if self._heaps is None:
            self._heaps = EvictionHeaps()
            for memory in self.table:
                self._changed(memory)
        least = self.table.get(self._heaps.least_important(category or DEFAULT_CATEGORY))
        assert least is not None
        return least

    def _changed(self, memory: Memory) -> None:
        """Notes the importance and the end of a memory."""
        if self._heaps:
            self._heaps.put(memory.category or DEFAULT_CATEGORY, memory.memory_id, memory.importance)
        if (until := memory.valid_until) is not None:
            self._ends[memory.memory_id] = until
            self._next_end = until if self._next_end is None else min(until, self._next_end)
        else:
            self._ends.pop(memory.memory_id, None)
