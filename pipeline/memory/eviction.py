"""Heaps that find the least important memory of a namespace's largest category, in logarithmic time.

Outdated entries stay in the heaps until they come up (lazy deletion).
"""

import heapq

SLACK = 64  # a heap may hold so many outdated entries more than current ones


class EvictionHeaps:
    """The memories of one namespace by category. Each memory is put in one category only."""

    def __init__(self) -> None:
        self._members: dict[str, dict[str, float]] = {}  # category -> memory id -> importance
        self._heaps: dict[str, list[tuple[float, str]]] = {}  # category -> heap of (importance, memory id)
        self._sizes: list[tuple[int, str]] = []  # heap of (-members, category)

    def put(self, category: str, memory_id: str, importance: float) -> None:
        """Adds a memory, or changes its importance."""
        members = self._members.setdefault(category, {})
        heap = self._heaps.setdefault(category, [])
        is_new = memory_id not in members
        members[memory_id] = importance
        heapq.heappush(heap, (importance, memory_id))
        if len(heap) > 2 * len(members) + SLACK:
            heap[:] = [(importance, memory_id) for memory_id, importance in members.items()]
            heapq.heapify(heap)
        if is_new:
            self._resized(category)

    def remove(self, category: str, memory_id: str) -> None:
        members = self._members[category]
        del members[memory_id]
        if not members:
            del self._members[category], self._heaps[category]
        self._resized(category)

    def least_important(self, growing: str) -> str:
        """The id of the least important memory of the largest category, if the category `growing` had one more.

        Equal categories are ordered by name, equal importances by id. Raises IndexError when there are no memories.
        """
        while (size := self._sizes[0]) and -size[0] != len(self._members.get(size[1], ())):
            heapq.heappop(self._sizes)
        category = size[1]
        if own := self._members.get(growing):
            category = min(size, (-len(own) - 1, growing))[1]
        members, heap = self._members[category], self._heaps[category]
        while members.get(heap[0][1]) != heap[0][0]:
            heapq.heappop(heap)
        return heap[0][1]

    def _resized(self, category: str) -> None:
        if size := len(self._members.get(category, ())):
            heapq.heappush(self._sizes, (-size, category))
        if len(self._sizes) > 2 * len(self._members) + SLACK:
            self._sizes = [(-len(members), name) for name, members in self._members.items()]
            heapq.heapify(self._sizes)
