"""Lookup of postings for one retrieval: the memories with the heaviest terms, and counts of term sets.

A lookup lives as long as one retrieval, during which the bank does not change. So it keeps its results, for other prompts
and for later steps.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.memory.namespace import Namespace
from pipeline.memory.pooled import Floats

Rows = NDArray[np.int64]
Bools = NDArray[np.bool_]

_FREQUENT = 64  # a term in more than one of so many rows gets a table of all rows, faster than searches
_TABLES = 128  # most such tables, of a byte a row
_SLACK = 1e-6  # nats squared: sums in another order differ by less


class Lookup:
    """The postings of one namespace. A row is a memory's row in the namespace's table."""

    def __init__(self, space: Namespace) -> None:
        self._table, self._postings = space.table, space.postings
        self._rows: dict[str, Rows] = {}
        self._membership: dict[str, Bools] = {}
        self._counts: dict[tuple[str, ...], int] = {}

    def rows(self, term: str) -> Rows:
        """The rows of the memories that contain the term, ascending."""
        if term not in self._rows:
            self._rows[term] = self._postings.rows(term).astype(np.int64)
        return self._rows[term]

    def contain(self, rows: Rows, term: str) -> Bools:
        """[rows] whether each contains the term."""
        others = self.rows(term)
        if not len(others):
            return np.zeros(len(rows), bool)
        membership = self._membership.get(term)
        if (
            membership is None
            and _FREQUENT * len(others) > len(self._table)
            and len(self._membership) < _TABLES
        ):
            membership = np.zeros(len(self._table), bool)
            membership[others] = True
            self._membership[term] = membership
        if membership is not None:
            return membership.take(rows)
        places = np.searchsorted(others, rows)
        return np.asarray(others.take(places, mode="clip") == rows)

    def term_sets(self, terms: Sequence[str], rows: Rows) -> NDArray[np.uint64]:
        """[rows] the set of terms, at most 64, that each memory contains: bit i stands for term i."""
        bits = np.zeros(len(rows), np.uint64)
        for i, term in enumerate(terms):
            bits |= self.contain(rows, term).astype(np.uint64) << np.uint64(i)
        return bits

    def counts(self, terms: Sequence[str], sets: NDArray[np.uint64], bound: int) -> NDArray[np.int64]:
        """[sets] how many memories contain all terms of a set (bits as in `term_sets`); 0 for the empty set.

        Some memory contains all terms of each set. The count is that of the rarest term, if this one is in more than `bound`
        memories, or in one.
        """
        named = [tuple(term for i, term in enumerate(terms) if bits >> i & 1) for bits in sets.tolist()]
        new_by_rarest: dict[str, list[int]] = {}  # sets that are not counted yet
        for n, own in enumerate(named):
            if own and own not in self._counts:
                new_by_rarest.setdefault(min(own, key=self._postings.count), []).append(n)
        for rarest, new in new_by_rarest.items():
            rows = self.rows(rarest)
            counts = [len(rows)] * len(new)
            if 1 < len(rows) <= bound:
                needed = int(np.bitwise_or.reduce(sets[new]))
                contained = self.term_sets([t if needed >> i & 1 else "" for i, t in enumerate(terms)], rows)
                counts = [int(np.count_nonzero(contained & one == one)) for one in sets[new]]
            self._counts.update((named[n], count) for n, count in zip(new, counts, strict=True))
        return np.array([self._counts[own] if own else 0 for own in named], np.int64)

    def heaviest(
        self, weights: Mapping[str, float], count: int, similarity: Callable[[Rows], Floats], bound: int
    ) -> Rows:
        """The rows of the `count` memories whose terms have the largest sums of weights.

        Ties are broken by `similarity` of the pooled states, then by id. Of more than `bound` ties only the first by id are
        compared.
        """
        rows, sums = self._heavy(weights, count)
        if len(rows) <= count:
            return rows
        sure, tied = _split_at(rows, sums, count)
        if len(tied) > bound:  # memories that share only common words with the prompt
            keys = self._table.id_prefixes(tied)
            tied = tied[keys <= np.partition(keys, bound)[bound]]
        nearer, equal = _split_at(tied, similarity(tied), count - len(sure))
        order = np.argsort(self._table.id_prefixes(equal), kind="stable")
        return np.concatenate([sure, nearer, equal[order[: count - len(sure) - len(nearer)]]])

    def _heavy(self, weights: Mapping[str, float], count: int) -> tuple[Rows, NDArray[np.float64]]:
        """Rows with their sums of weights: the `count` heaviest, all that tie with them, and maybe others.

        Terms are added heaviest first. Once the `count`-th heaviest row weighs more than all remaining terms together, no new
        row can be among the heaviest: from then on only rows that can still be are kept.
        """
        terms = sorted(((weight, term) for term, weight in weights.items() if weight > 0), reverse=True)
        sum_of_row, remaining = np.zeros(len(self._table)), sum(weight for weight, _ in terms)
        rows, sums = np.zeros(0, np.int64), np.zeros(0)
        closed = False  # whether no new rows are added
        for weight, term in terms:
            if len(rows) > count:
                sums = sums if closed else sum_of_row[rows]
                least = np.partition(sums, -count)[-count]
                if closed or least > remaining:
                    stay = sums + remaining >= least - _SLACK
                    rows, sums = rows[stay], sums[stay]
                    if not closed:
                        order = np.argsort(rows)
                        rows, sums, closed = rows[order], sums[order], True
            if closed:
                sums[self.contain(rows, term)] += weight
            else:
                containing = self.rows(term)
                rows = np.concatenate([rows, containing[sum_of_row[containing] == 0]])
                sum_of_row[containing] += weight
            remaining -= weight
        return rows, sums if closed else sum_of_row[rows]


def _split_at(rows: Rows, values: NDArray[np.floating[Any]], count: int) -> tuple[Rows, Rows]:
    """The rows above the `count`-th highest value, and the rows with exactly that value."""
    least = np.partition(values, -count)[-count]
    return rows[values > least], rows[values == least]
