"""Which memories have a prompt's words, and how many have several of them: the index's postings, looked up.

A lookup is for one retrieval, while the bank stands still: what many prompts ask for, or one asks for more than once, is
kept as long as it lives. Rows are those of the index. Knows no memory and no model.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.memory.postings import Floats, Index

Rows = NDArray[np.int64]
Bools = NDArray[np.bool_]

_OFTEN = (
    64  # a word that more than one in so many rows has: a table of all rows is faster than a search for each
)
_TABLES = 128  # of a byte a row, at most
_COMPARED = 16_384  # memories that share the same words, by their pooled states
_SLACK = 1e-6  # nats squared: sums in another order differ by less


class Lookup:
    def __init__(self, index: Index) -> None:
        self._index = index
        self._rows: dict[str, Rows] = {}
        self._tables: dict[str, Bools] = {}
        self._together: dict[tuple[str, ...], int] = {}

    def rows(self, form: str) -> Rows:
        """The rows of the memories that have the word, ascending."""
        if form not in self._rows:
            self._rows[form] = self._index.rows_with(form).astype(np.int64)
        return self._rows[form]

    def having(self, rows: Rows, form: str) -> Bools:
        """Which of these rows have the word."""
        others = self.rows(form)
        if not len(others):
            return np.zeros(len(rows), bool)
        table = self._tables.get(form)
        if table is None and _OFTEN * len(others) > len(self._index.ids) and len(self._tables) < _TABLES:
            table = np.zeros(len(self._index.ids), bool)
            table[others] = True
            self._tables[form] = table
        if table is not None:
            return table.take(rows)
        at = np.searchsorted(others, rows)
        return np.asarray(others.take(at, mode="clip") == rows)

    def shared(self, forms: Sequence[str], rows: Rows) -> NDArray[np.uint64]:
        """For each row which of up to 64 words its memory has, a bit each."""
        bits = np.zeros(len(rows), np.uint64)
        for i, form in enumerate(forms):
            bits |= self.having(rows, form).astype(np.uint64) << np.uint64(i)
        return bits

    def together(self, forms: Sequence[str], sets: NDArray[np.uint64], bound: int) -> NDArray[np.int64]:
        """How many memories have all the words of each set of up to 64, a bit each; of a rarest word in more than
        `bound`, that word's count, and 0 of no words."""
        named = [tuple(form for i, form in enumerate(forms) if bits >> i & 1) for bits in sets.tolist()]
        rarest: dict[str, list[int]] = {}  # the sets that are not known yet, by this word
        for n, words in enumerate(named):
            if words and words not in self._together:
                rarest.setdefault(min(words, key=self._index.count), []).append(n)
        for form, those in rarest.items():
            rows = self.rows(form)
            counts = [len(rows)] * len(those)
            if 1 < len(rows) <= bound:
                needed = int(np.bitwise_or.reduce(sets[those]))
                had = self.shared([f if needed >> i & 1 else "" for i, f in enumerate(forms)], rows)
                counts = [int(np.count_nonzero(had & some == some)) for some in sets[those]]
            self._together.update((named[n], count) for n, count in zip(those, counts, strict=True))
        return np.array([self._together[words] if words else 0 for words in named], np.int64)

    def sharing(self, masses: Mapping[str, float], count: int, nearness: Callable[[Rows], Floats]) -> Rows:
        """The rows of the `count` memories that have the heaviest of these words together.

        Of a large bank's memories many share the same words with a prompt: of these the nearest, and then by id; and of
        very many some, by id.
        """
        words = sorted(((mass, form) for form, mass in masses.items() if mass > 0), reverse=True)
        found, left = np.zeros(len(self._index.ids)), sum(mass for mass, _ in words)
        rows, heavy = np.zeros(0, np.int64), np.zeros(0)
        closed = False
        for mass, form in words:
            if len(rows) > count:
                # Who has no more than the words from here on is lighter than the heaviest so far, once these weigh more
                # than all of them: then nobody comes, and only those stay who may still be among the heaviest.
                heavy = heavy if closed else found[rows]
                least = np.partition(heavy, -count)[-count]
                if closed or least > left:
                    stay = heavy + left >= least - _SLACK
                    rows, heavy = rows[stay], heavy[stay]
                    if not closed:
                        order = np.argsort(rows)
                        rows, heavy, closed = rows[order], heavy[order], True
            if closed:
                heavy[self.having(rows, form)] += mass
            else:
                having = self.rows(form)
                rows = np.concatenate([rows, having[found[having] == 0]])
                found[having] += mass
            left -= mass
        heavy = heavy if closed else found[rows]
        if len(rows) <= count:
            return rows
        sure, tied = _above(rows, heavy, count)
        if len(tied) > _COMPARED:  # of wording alone
            keys = self._index.ids.keys(tied)
            tied = tied[keys <= np.partition(keys, _COMPARED)[_COMPARED]]
        near, equal = _above(tied, nearness(tied), count - len(sure))
        order = np.argsort(self._index.ids.keys(equal), kind="stable")
        return np.concatenate([sure, near, equal[order[: count - len(sure) - len(near)]]])


def _above(rows: Rows, by: NDArray[np.floating[Any]], count: int) -> tuple[Rows, Rows]:
    """Of the rows those that are certainly among the `count` highest, and those of which only some are."""
    least = np.partition(by, -count)[-count]
    return rows[by > least], rows[by == least]
