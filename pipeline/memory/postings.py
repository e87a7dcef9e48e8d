"""Inverted index of a namespace: which memories contain a term, and how many.

A term's postings are the rows of the memories that contain it, ascending. Short postings lose the row of a removed memory at
once. Long ones keep it until an eighth of their rows are removed ones, since each removal would copy them.
"""

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.memory.table import Table

_LONG = 1024  # rows from which postings keep removed rows for a while
_MAX_STALE = 1 / 8  # share of removed rows in long postings

Rows32 = NDArray[np.uint32]
"""Row numbers as postings store them."""


class Postings:
    """The postings of all terms of a table's memories."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._by_term: dict[str, int | array[int]] = {}  # a number for a term of one memory, as most are
        self._stale: dict[str, int] = {}  # term of long postings -> how many of their rows are removed ones

    def add(self, row: int, terms: Iterable[str]) -> None:
        """Adds the newest row."""
        for term in dict.fromkeys(terms):
            rows = self._by_term.get(term)
            if rows is None:
                self._by_term[term] = row
            elif isinstance(rows, int):
                self._by_term[term] = array("I", (rows, row))
            else:
                rows.append(row)

    def remove(self, row: int, terms: Iterable[str]) -> None:
        """Removes a row that the table has removed already."""
        for term in set(terms):
            rows = self._by_term[term]
            if isinstance(rows, int):
                del self._by_term[term]
            elif len(rows) == 2:
                self._by_term[term] = rows[0] + rows[1] - row
            elif len(rows) < _LONG and term not in self._stale:
                del rows[bisect_left(rows, row)]
            else:
                self._stale[term] = self._stale.get(term, 0) + 1
                if self._stale[term] > _MAX_STALE * len(rows):
                    self._clean(term, self._table.present())

    def renumber(self, kept: NDArray[np.bool_]) -> None:
        """Follows `Table.compact`, which returned `kept`."""
        for term in list(self._stale):
            self._clean(term, kept)
        renumbered = np.cumsum(kept, dtype=np.uint32) - 1
        for term, rows in self._by_term.items():
            self._by_term[term] = (
                int(renumbered[rows])
                if isinstance(rows, int)
                else array("I", renumbered[np.array(rows)].tobytes())
            )

    def count(self, term: str) -> int:
        """How many memories contain the term."""
        rows = self._by_term.get(term)
        return 0 if rows is None else 1 if isinstance(rows, int) else len(rows) - self._stale.get(term, 0)

    def raw(self, term: str) -> Sequence[int]:
        """The term's postings themselves, not a copy; long ones may have removed rows."""
        rows = self._by_term.get(term, ())
        return (rows,) if isinstance(rows, int) else rows

    def newest(self, term: str) -> Iterator[int]:
        """The rows of the memories that contain the term, newest first."""
        rows = reversed(self.raw(term))
        return filter(self._table.is_present, rows) if term in self._stale else rows

    def rows(self, term: str) -> Rows32:
        """The rows of the memories that contain the term, ascending."""
        if term in self._stale:
            self._clean(term, self._table.present())
        return np.array(self.raw(term), np.uint32)

    def rows_with_all(self, terms: Sequence[str], bound: int) -> Rows32:
        """The rows of the memories that contain all terms, newest first, among the newest `bound` with the rarest."""
        rarest, *others = sorted(terms, key=self.count)
        rows = self.rows(rarest)[-bound:]
        for term in others:
            rows = rows[_is_in(rows, np.array(self.raw(term), np.uint32, copy=None))]
        return rows[::-1]

    def _clean(self, term: str, present: NDArray[np.bool_]) -> None:
        rows = np.array(self._by_term[term])
        self._by_term[term] = array("I", rows[present[rows]].tobytes())
        del self._stale[term]


def _is_in(rows: Rows32, ascending: Rows32) -> NDArray[np.bool_]:
    """[rows] whether each is among `ascending`."""
    if not len(ascending):
        return np.zeros(len(rows), bool)
    places = np.searchsorted(ascending, rows)
    return np.asarray(ascending[np.minimum(places, len(ascending) - 1)] == rows)
