"""The memories of a namespace by category: which is the least important of the category that has the most?

Answered in logarithmic time at any size, by heaps whose outdated entries are left in them until they come up
(lazy deletion). Knows ids and numbers only.
"""

import heapq

SLACK = 64  # outdated entries that a heap may have beside as many as it has true ones


class Categories:
    def __init__(self) -> None:
        self._members: dict[str, dict[str, float]] = {}  # category -> memory id -> importance
        self._heaps: dict[str, list[tuple[float, str]]] = {}  # of (importance, memory id)
        self._sizes: list[tuple[int, str]] = []  # heap of (-members, category)

    def put(self, category: str, memory_id: str, importance: float) -> None:
        """A memory that came, or whose importance is another now."""
        members = self._members.setdefault(category, {})
        heap = self._heaps.setdefault(category, [])
        came = memory_id not in members
        members[memory_id] = importance
        heapq.heappush(heap, (importance, memory_id))
        if len(heap) > 2 * len(members) + SLACK:
            heap[:] = [(importance, memory_id) for memory_id, importance in members.items()]
            heapq.heapify(heap)
        if came:
            self._resized(category)

    def remove(self, category: str, memory_id: str) -> None:
        members = self._members[category]
        del members[memory_id]
        if not members:
            del self._members[category], self._heaps[category]
        self._resized(category)

    def of_largest(self, coming: str) -> str:
        """The id of the least important memory of the largest category, where `coming` is about to get one more.

        Of categories of one size the first by name, of importances the first by id. Raises IndexError when there is none.
        """
        while (size := self._sizes[0]) and -size[0] != len(self._members.get(size[1], ())):
            heapq.heappop(self._sizes)
        category = size[1]
        if own := self._members.get(coming):
            category = min(size, (-len(own) - 1, coming))[1]
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
