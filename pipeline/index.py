"""Where a namespace's memories are found: which have a word, and whose pooled states are near.

Two ways to be a candidate, because either alone misses: rare words find what shares them at any size of the bank,
pooled states find what is said in other words. Exact scores are retrieval's business. Knows no model and no settings.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.vectors import unit, unpack

POOLED = 128
"""Dimensions of a pooled vector: the leading ones, in which states vary most."""


class Index:
    def __init__(self) -> None:
        self._by_word: dict[str, dict[str, None]] = {}  # word -> memory ids, oldest first
        self._rows: dict[str, int] = {}  # memory id -> row
        self._ids: list[str] = []  # row -> memory id
        self._pooled = np.zeros((0, POOLED), np.float32)  # [rows or more, POOLED]

    def add(self, memory_id: str, forms: Iterable[str], pooled: NDArray[np.float32]) -> None:
        for form in forms:
            self._by_word.setdefault(form, {})[memory_id] = None
        row = self._rows[memory_id] = len(self._ids)
        self._ids.append(memory_id)
        if row == len(self._pooled):
            self._pooled = np.concatenate([self._pooled, np.zeros((max(64, row // 2), POOLED), np.float32)])
        self._pooled[row] = pooled

    def remove(self, memory_id: str, forms: Iterable[str]) -> None:
        for form in set(forms):
            del self._by_word[form][memory_id]
            if not self._by_word[form]:
                del self._by_word[form]
        row, last = self._rows.pop(memory_id), self._ids.pop()
        if last != memory_id:  # the last row takes the free place
            self._ids[row], self._rows[last] = last, row
            self._pooled[row] = self._pooled[len(self._ids)]

    def holding(self, form: str) -> dict[str, None]:
        """The ids of the memories that have the word, oldest first."""
        return self._by_word.get(form, {})

    def together(self, forms: Sequence[str], bound: int) -> int:
        """How many memories have all the words; of a rarest word in more than `bound`, that word's count."""
        postings = sorted((self.holding(form) for form in forms), key=len)
        if not postings or len(postings[0]) > bound:
            return len(postings[0]) if postings else 0
        left = set(postings[0])
        for posting in postings[1:]:
            left = {memory_id for memory_id in left if memory_id in posting}
            if len(left) <= 1:
                break
        return len(left)

    def nearest(self, pooled: NDArray[np.float32], count: int) -> list[str]:
        """The ids of the `count` memories with the nearest pooled states, nearest first."""
        if not self._ids:
            return []
        near = self._pooled[: len(self._ids)] @ pooled
        count = min(count, len(near))
        top = np.argpartition(-near, count - 1)[:count]
        return [self._ids[row] for row in sorted(top.tolist(), key=lambda row: (-near[row], self._ids[row]))]


def pool(vectors: NDArray[np.float32], weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """[words, d] unit vectors and what each word says to one unit vector [POOLED]."""
    pooled = np.zeros(POOLED, np.float32)
    lead = (vectors[:, :POOLED] * weights[:, None]).sum(0)
    pooled[: len(lead)] = lead
    return np.asarray(unit(pooled[None])[0], np.float32)


def pool_packed(packed: NDArray[np.uint8], weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """The same of packed vectors."""
    return pool(unpack(packed, packed.shape[1] * 4), weights)
