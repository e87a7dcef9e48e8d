"""Exact nearest-neighbour search among the pooled states of a namespace's memories.

It finds facts that are worded differently than the prompt. A text's pooled state is the mean of its words' states, weighted
by their information, in the leading `POOLED` dimensions and of unit length. faiss keeps it in eight bits a dimension;
similarity is the inner product.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.ingest.quantize import product, unit, unpack_leading
from pipeline.memory.postings import Rows32
from pipeline.memory.table import Table

POOLED = 128
"""Dimensions of a pooled state: the leading ones of a word state, in which states vary most."""

_RANGE = 0.5  # of a pooled state's coordinates in eight bits: of 13 million none was above .35
_STEPS = 5_000  # in a unit vector's length: its product with codes below 256 is under 2**24, so float32 sums are exact
_ADDED_TOGETHER = 128  # memories whose states are unpacked together: a bound of memory use
_COMPARED_TOGETHER = 1024  # rows whose codes are unpacked together
_MANY = 16  # queries from which a matrix product is faster than a search for each

Floats = NDArray[np.float32]
WeightedStates = tuple[NDArray[np.uint8], Floats]
"""A text's packed word states [words, ceil(d / 4)], and each word's weight [words]."""

_NO_STATES: WeightedStates = (np.zeros((0, 0), np.uint8), np.zeros(0, np.float32))

_Pairs = tuple[NDArray[np.int64], Rows32, Floats]  # queries, rows, similarities


class PooledIndex:
    """The pooled states of a table's rows. A search first adds the rows that came since the last one."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._index: Any = None  # made by the first search: a writer never searches

    def nearest(self, queries: Floats, count: int) -> list[Rows32]:
        """queries: [queries, POOLED] pooled states. For each the rows of the `count` most similar memories, unordered."""
        if not self._table.size:
            return [np.zeros(0, np.uint32)] * len(queries)
        self._add_new_rows()
        queries, count = np.rint(queries * _STEPS), min(count, self._table.size)
        return self._search_all(queries, count) if len(queries) >= _MANY else self._search(queries, count)

    def similarity(self, query: Floats, rows: NDArray[np.int64]) -> Floats:
        """[rows] the similarity of one pooled state [POOLED] to these rows', which an earlier `nearest` has added."""
        return np.asarray(self._codes()[rows].astype(np.float32) @ np.rint(query * _STEPS))

    def renumber(self, kept: NDArray[np.bool_]) -> None:
        """Follows `Table.compact`, which returned `kept`."""
        if self._index is not None:
            self._index.remove_ids(np.flatnonzero(~kept[: self._index.ntotal]))

    def _add_new_rows(self) -> None:
        import faiss

        if self._index is None:
            self._index = faiss.IndexScalarQuantizer(
                POOLED, faiss.ScalarQuantizer.QT_8bit_uniform, faiss.METRIC_INNER_PRODUCT
            )
            self._index.train(np.array([[-_RANGE], [_RANGE]], np.float32).repeat(POOLED, 1))
        for start in range(self._index.ntotal, len(self._table), _ADDED_TOGETHER):
            rows = range(start, min(start + _ADDED_TOGETHER, len(self._table)))
            self._index.add(pool_packed([self._states(row) for row in rows]))

    def _states(self, row: int) -> WeightedStates:
        if not self._table.is_present(row):
            return _NO_STATES
        memory = self._table.at(row)
        return memory.vectors, memory.priors

    def _search(self, queries: Floats, count: int) -> list[Rows32]:
        import faiss

        parameters = None
        if self._table.removed:
            selector = faiss.IDSelectorBitmap(np.packbits(self._table.present(), bitorder="little"))
            parameters = faiss.SearchParameters(sel=selector)
        _, found = self._index.search(queries, count, params=parameters)
        return [rows[rows >= 0].astype(np.uint32) for rows in found]

    def _search_all(self, queries: Floats, count: int) -> list[Rows32]:
        """The same for many queries as matrix products, some rows at a time: faiss reads all codes again for each query."""
        codes, present = self._codes(), self._table.present()
        transposed = np.ascontiguousarray(queries.T)
        states = np.zeros((_COMPARED_TOGETHER, POOLED), np.float32)
        similarity = np.empty((_COMPARED_TOGETHER, len(queries)), np.float32)
        # What a row's similarity must exceed, to be among a query's nearest.
        least = np.full(len(queries), -np.inf, np.float32)
        found = [(np.zeros(0, np.uint32), np.zeros(0, np.float32)) for _ in queries]
        pending: list[_Pairs] = []  # seen since the last update of `found`
        update_at = _COMPARED_TOGETHER
        for start in range(0, len(codes), _COMPARED_TOGETHER):
            n = min(_COMPARED_TOGETHER, len(codes) - start)
            states[:n] = codes[start : start + n]
            product(states, transposed, similarity)
            if self._table.removed:
                similarity[:n][~present[start : start + n]] = -np.inf
            rows, of_query = np.divmod(np.flatnonzero(similarity[:n] > least), len(queries))
            pending.append((of_query, (rows + start).astype(np.uint32), similarity[rows, of_query]))
            # Each update comes after twice as many rows: so only a few more pairs are kept than are needed.
            if start + n >= update_at or start + n == len(codes):
                update_at = 2 * (start + n)
                found, pending = _merged(found, pending, count), []
                for i, (_, similarities) in enumerate(found):
                    if len(similarities) == count:
                        least[i] = similarities.min()
        return [rows for rows, _ in found]

    def _codes(self) -> NDArray[np.uint8]:
        """[rows, POOLED] the codes where faiss keeps them."""
        import faiss

        codes = faiss.rev_swig_ptr(self._index.codes.data(), self._index.ntotal * POOLED)
        return np.asarray(codes.reshape(-1, POOLED))


def _merged(
    found: list[tuple[Rows32, Floats]], pending: list[_Pairs], count: int
) -> list[tuple[Rows32, Floats]]:
    """The `count` most similar rows of `found` and `pending` for each query, and their similarities."""
    queries, rows, similarities = map(np.concatenate, zip(*pending, strict=True))
    order = np.argsort(queries.astype(np.uint16), kind="stable")
    rows, similarities = rows[order], similarities[order]
    ends = np.searchsorted(queries[order], np.arange(len(found) + 1))
    merged = []
    for i, (old_rows, old_similarities) in enumerate(found):
        new = slice(ends[i], ends[i + 1])
        all_rows = np.concatenate([old_rows, rows[new]])
        all_similarities = np.concatenate([old_similarities, similarities[new]])
        enough = len(all_similarities) > count
        best = np.argpartition(all_similarities, -count)[-count:] if enough else slice(None)
        merged.append((all_rows[best], all_similarities[best]))
    return merged


def pool(vectors: Floats, weights: Floats) -> Floats:
    """[POOLED] the pooled state of [words, d] unit vectors and the words' weights [words]."""
    pooled = np.zeros(POOLED, np.float32)
    lead = (vectors[:, :POOLED] * weights[:, None]).sum(0)
    pooled[: len(lead)] = lead
    return np.asarray(unit(pooled[None])[0], np.float32)


def pool_packed(texts: Sequence[WeightedStates]) -> Floats:
    """[texts, POOLED] the pooled states of packed word states; zero for a text without any."""
    counts = np.array([len(packed) if packed.size else 0 for packed, _ in texts])
    pooled = np.zeros((len(texts), POOLED), np.float32)
    filled = np.flatnonzero(counts).tolist()
    if filled:
        vectors = unpack_leading(np.concatenate([texts[i][0] for i in filled]), POOLED)
        vectors *= np.concatenate([texts[i][1] for i in filled])[:, None]
        sums = np.add.reduceat(vectors, np.cumsum([0, *counts[filled][:-1]]))
        pooled[filled, : sums.shape[1]] = sums
    return unit(pooled)
