"""State of one namespace: its memories, the indexes that find them, and the offsets decided so far.

The table and both indexes refer to memories by row number, so they are changed together, here.
"""

from collections import OrderedDict
from collections.abc import Iterable, Mapping

from pipeline.memory.eviction import EvictionHeaps
from pipeline.memory.pooled import PooledIndex
from pipeline.memory.postings import Postings
from pipeline.memory.record import Memory
from pipeline.memory.table import Table
from pipeline.text.words import terms_of

DEFAULT_CATEGORY = ""


class Namespace:
    """The state; at first without memories. The arguments restore `Bank.decided_state` from a checkpoint."""

    def __init__(
        self,
        decided: Mapping[str, int] | None = None,
        fact_ids: Iterable[str] = (),
        request_ids: Iterable[str] = (),
    ) -> None:
        self.table = Table()
        self.postings = Postings(self.table)
        self.pooled = PooledIndex(self.table)
        self._heaps: EvictionHeaps | None = None  # made for the first eviction: a replica never evicts
        self.decided = dict(decided or {})  # SourceOffset.log -> highest offset
        # Oldest first. A plain dictionary would search for its oldest key past all deleted ones.
        self.fact_ids = OrderedDict.fromkeys(fact_ids)
        self.request_ids = OrderedDict.fromkeys(request_ids)  # requests whose uses are counted

    @property
    def size(self) -> int:
        """The number of memories."""
        return self.table.size

    def put(self, memory: Memory) -> None:
        """Adds a memory as the newest, in place of the one that has its id."""
        if known := self.table.get(memory.memory_id):
            self.remove(known)
        self.postings.add(self.table.add(memory), terms_of(memory.text))
        self._weigh(memory)

    def change(self, memory: Memory) -> None:
        """Replaces the memory that has this id by the result of its `Memory.changed`."""
        self.table.change(memory)
        self._weigh(memory)

    def remove(self, memory: Memory) -> None:
        if self._heaps:
            self._heaps.remove(memory.category or DEFAULT_CATEGORY, memory.memory_id)
        self.postings.remove(self.table.remove(memory.memory_id), terms_of(memory.text))
        if self.table.is_sparse:
            kept = self.table.compact()
            self.postings.renumber(kept)
            self.pooled.renumber(kept)

    def least_important(self, category: str | None) -> Memory:
        """The least important memory of the largest category, where `category` is about to grow by one."""
        if self._heaps is None:
            self._heaps = EvictionHeaps()
            for memory in self.table:
                self._weigh(memory)
        least = self.table.get(self._heaps.least_important(category or DEFAULT_CATEGORY))
        assert least is not None
        return least

    def _weigh(self, memory: Memory) -> None:
        if self._heaps:
            self._heaps.put(memory.category or DEFAULT_CATEGORY, memory.memory_id, memory.importance)
