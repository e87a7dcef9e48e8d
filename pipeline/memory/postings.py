"""Where a namespace's memories are found: which have a word, and whose pooled states are near.

Two ways to be a candidate, because either alone misses: rare words find what shares them at any size of the bank,
pooled states find what is said in other words. Both are exact and ask nothing about the order in which the memories
came, so every replica finds the same ones. Exact scores are retrieval's business. Knows no model and no settings.

A memory has a row, a number that grows as memories come; a word's postings are the rows that have it, ascending. The
rows of memories that left stay empty, until they are a fifth of all and the rows are numbered anew. Out of the postings
of a common word they are taken many at a time, for each time the postings are copied.
"""

from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.ingest.quantize import product, unit, unpack_leading
from pipeline.memory.table import Ids

POOLED = 128
"""Dimensions of a pooled vector: the leading ones, in which states vary most."""

_RANGE = 0.5  # of a pooled unit vector's coordinates in eight bits: of 13 million none was above .35
_GONE = 0.2  # the share of rows without a memory from which on the rows are numbered anew
_FEW = 1024  # so many are never worth it
_COMMON = 1024  # rows of a word, from which on its postings keep some of those who left
_KEPT = 1 / 8  # of its postings, at most
_AT_ONCE = 128  # memories that are pooled together: what that leaves behind is counted, too
_COMPARED = 1024  # of which the pooled states are unpacked together
_MANY = 16  # prompts, from which on a matrix product is faster than a search for each
_STEPS = 5_000  # in a unit vector's length: its product with codes below 256 is less than 2**24, so float32 holds every sum

Floats = NDArray[np.float32]
Rows = NDArray[np.uint32]
Stated = tuple[NDArray[np.uint8], Floats]
"""A memory's packed states [words, ceil(d / 4)], and what each word says [words]."""


class Index:
    def __init__(self) -> None:
        self.ids = Ids()
        # word -> rows. Most words are in one memory only: these have a number and no array.
        self._by_word: dict[str, int | array[int]] = {}
        self._left: dict[str, int] = {}  # common word -> how many rows in its postings are empty
        self._pooled: Any = None  # made when it is first asked: who only decides needs none

    def add(self, memory_id: str, forms: Iterable[str]) -> None:
        """The memory gets the next row. Raises ValueError for an id that is none."""
        row = self.ids.add(memory_id)
        for form in dict.fromkeys(forms):
            had = self._by_word.get(form)
            if had is None:
                self._by_word[form] = row
            elif isinstance(had, int):
                self._by_word[form] = array("I", (had, row))
            else:
                had.append(row)

    def remove(self, memory_id: str, forms: Iterable[str]) -> NDArray[np.bool_] | None:
        """Where the rows are numbered anew hereby: of each old row whether it is still there."""
        row = self.ids.remove(memory_id)
        for form in set(forms):
            had = self._by_word[form]
            if isinstance(had, int):
                del self._by_word[form]
            elif len(had) == 2:
                self._by_word[form] = had[0] + had[1] - row
            elif len(had) < _COMMON and form not in self._left:
                del had[bisect_left(had, row)]
            else:
                self._left[form] = self._left.get(form, 0) + 1
                if self._left[form] > _KEPT * len(had):
                    self._take_out(form)
        return self._renumber() if self.ids.gone > max(_FEW, _GONE * len(self.ids)) else None

    def _take_out(self, form: str) -> None:
        """What left, out of a common word's postings."""
        rows = np.array(self._by_word[form])
        self._by_word[form] = array("I", rows[self.ids.are_held()[rows]].tobytes())
        del self._left[form]

    def _renumber(self) -> NDArray[np.bool_]:
        for form in list(self._left):
            self._take_out(form)
        held = self.ids.are_held()
        self.ids.renumber()
        anew = np.cumsum(held, dtype=np.uint32) - 1
        for form, had in self._by_word.items():
            self._by_word[form] = (
                int(anew[had]) if isinstance(had, int) else array("I", anew[np.array(had)].tobytes())
            )
        if self._pooled is not None:
            self._pooled.remove_ids(np.flatnonzero(~held[: self._pooled.ntotal]))
        return held

    def memory_id(self, row: int) -> str:
        return self.ids[row]

    def count(self, form: str) -> int:
        """How many memories have the word."""
        had = self._by_word.get(form)
        return 0 if had is None else 1 if isinstance(had, int) else len(had) - self._left.get(form, 0)

    def holding(self, form: str) -> Sequence[int]:
        """The rows of the memories that have the word, ascending, without copying them; of a common word empty ones
        may be among them."""
        had = self._by_word.get(form, ())
        return (had,) if isinstance(had, int) else had

    def newest(self, form: str) -> Iterator[int]:
        """The rows of the memories that have the word, descending."""
        rows = reversed(self.holding(form))
        return filter(self.ids.is_held, rows) if form in self._left else rows

    def rows_with(self, form: str) -> Rows:
        """The rows of the memories that have the word, ascending, as numbers to compute with."""
        if form in self._left:
            self._take_out(form)
        return np.array(self.holding(form), np.uint32)

    def with_all(self, forms: Sequence[str], bound: int) -> Rows:
        """The rows of the memories that have all the words, newest first; no more than `bound` with the rarest are seen."""
        rarest, *others = sorted(forms, key=self.count)
        rows = self.rows_with(rarest)[-bound:]
        for form in others:
            rows = rows[_among(rows, np.array(self.holding(form), np.uint32, copy=None))]
        return rows[::-1]

    def together(self, forms: Sequence[str], bound: int) -> int:
        """How many memories have all the words; of a rarest word in more than `bound`, that word's count."""
        rarest = min(map(self.count, forms), default=0)
        return len(self.with_all(forms, bound)) if 1 < rarest <= bound else rarest

    def nearest(self, pooled: Floats, count: int, stated: Callable[[str], Stated]) -> list[Rows]:
        """pooled: [prompts, POOLED]. For each the rows of the `count` memories with the nearest pooled states.

        stated: a memory's states by its id, none where it has left; asked for those that came since the last time.
        """
        if not self.ids.held:
            return [np.zeros(0, np.uint32)] * len(pooled)
        import faiss

        if self._pooled is None:
            self._pooled = faiss.IndexScalarQuantizer(
                POOLED, faiss.ScalarQuantizer.QT_8bit_uniform, faiss.METRIC_INNER_PRODUCT
            )
            self._pooled.train(np.array([[-_RANGE], [_RANGE]], np.float32).repeat(POOLED, 1))
        for start in range(self._pooled.ntotal, len(self.ids), _AT_ONCE):
            rows = range(start, min(start + _AT_ONCE, len(self.ids)))
            self._pooled.add(pool_packed([stated(self.ids[row]) for row in rows]))
        pooled, count = np.rint(pooled * _STEPS), min(count, self.ids.held)
        if len(pooled) >= _MANY:
            return self._nearest_of_many(pooled, count)
        only = None
        if self.ids.gone:
            held = faiss.IDSelectorBitmap(np.packbits(self.ids.are_held(), bitorder="little"))
            only = faiss.SearchParameters(sel=held)
        _, found = self._pooled.search(pooled, count, params=only)
        return [some[some >= 0].astype(np.uint32) for some in found]

    def nearness(self, pooled: Floats, rows: NDArray[np.int64]) -> Floats:
        """How near the pooled states of these rows are to one [POOLED]; of rows that `nearest` has seen."""
        return np.asarray(self._codes()[rows].astype(np.float32) @ np.rint(pooled * _STEPS))

    def _codes(self) -> NDArray[np.uint8]:
        """[rows, POOLED] the pooled states as faiss keeps them."""
        import faiss

        return np.asarray(
            faiss.rev_swig_ptr(self._pooled.codes.data(), self._pooled.ntotal * POOLED).reshape(-1, POOLED)
        )

    def _nearest_of_many(self, pooled: Floats, count: int) -> list[Rows]:
        """The same as matrix products over the codes, some at a time: faiss reads all of them again for each prompt."""
        codes, held, turned = self._codes(), self.ids.are_held(), np.ascontiguousarray(pooled.T)
        states = np.zeros((_COMPARED, POOLED), np.float32)
        alike = np.empty((_COMPARED, len(pooled)), np.float32)
        # What a row must have to be among a prompt's nearest.
        least = np.full(len(pooled), -np.inf, np.float32)
        found = [(np.zeros(0, np.uint32), np.zeros(0, np.float32)) for _ in pooled]
        seen: list[tuple[NDArray[np.int64], Rows, Floats]] = []  # since then, of all prompts
        more = _COMPARED
        for start in range(0, len(self.ids), _COMPARED):
            n = min(_COMPARED, len(self.ids) - start)
            states[:n] = codes[start : start + n]
            product(states, turned, alike)
            if self.ids.gone:
                alike[:n][~held[start : start + n]] = -np.inf
            rows, prompts = np.divmod(np.flatnonzero(alike[:n] > least), len(pooled))
            seen.append((prompts, (rows + start).astype(np.uint32), alike[rows, prompts]))
            # Each time after twice as many: so only a few more than are looked for are kept.
            if start + n >= more or start + n == len(self.ids):
                more = 2 * (start + n)
                found, seen = _nearer(found, seen, count), []
                for i, (_, near) in enumerate(found):
                    if len(near) == count:
                        least[i] = near.min()
        return [rows for rows, _ in found]


def _nearer(
    found: list[tuple[Rows, Floats]], seen: list[tuple[NDArray[np.int64], Rows, Floats]], count: int
) -> list[tuple[Rows, Floats]]:
    """Of what was found for each prompt, and seen since, the `count` nearest."""
    prompts, rows, near = map(np.concatenate, zip(*seen, strict=True))
    order = np.argsort(prompts.astype(np.uint16), kind="stable")
    rows, near = rows[order], near[order]
    ends = np.searchsorted(prompts[order], np.arange(len(found) + 1))
    nearer = []
    for i, (had, how) in enumerate(found):
        new = slice(ends[i], ends[i + 1])
        all_rows, all_near = np.concatenate([had, rows[new]]), np.concatenate([how, near[new]])
        best = np.argpartition(all_near, -count)[-count:] if len(all_near) > count else slice(None)
        nearer.append((all_rows[best], all_near[best]))
    return nearer


NO_STATES: Stated = (np.zeros((0, 0), np.uint8), np.zeros(0, np.float32))


def pool(vectors: Floats, weights: Floats) -> Floats:
    """[words, d] unit vectors and what each word says to one unit vector [POOLED]."""
    pooled = np.zeros(POOLED, np.float32)
    lead = (vectors[:, :POOLED] * weights[:, None]).sum(0)
    pooled[: len(lead)] = lead
    return np.asarray(unit(pooled[None])[0], np.float32)


def pool_packed(stated: Sequence[Stated]) -> Floats:
    """The same of packed vectors, for many memories: [memories, POOLED]."""
    counts = np.array([len(packed) if packed.size else 0 for packed, _ in stated])
    pooled = np.zeros((len(stated), POOLED), np.float32)
    having = np.flatnonzero(counts).tolist()
    if having:
        vectors = unpack_leading(np.concatenate([stated[i][0] for i in having]), POOLED)
        vectors *= np.concatenate([stated[i][1] for i in having])[:, None]
        sums = np.add.reduceat(vectors, np.cumsum([0, *counts[having][:-1]]))
        pooled[having, : sums.shape[1]] = sums
    return unit(pooled)


def _among(rows: Rows, others: Rows) -> NDArray[np.bool_]:
    """Which rows are among the others, which ascend."""
    if not len(others):
        return np.zeros(len(rows), bool)
    at = np.searchsorted(others, rows)
    return np.asarray(others[np.minimum(at, len(others) - 1)] == rows)
