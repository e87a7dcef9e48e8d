"""Lookups against plain counting: the heaviest memories, and how many contain a set of terms."""

from collections import Counter
from collections.abc import Sequence
from functools import partial

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.ingest.quantize import unit
from pipeline.memory.lookup import Lookup
from pipeline.memory.namespace import Namespace
from pipeline.memory.pooled import POOLED
from tests.memory.samples import memory, namespace_of, numbers_of

texts = st.lists(st.lists(st.sampled_from("abcdefg"), min_size=1, max_size=5), min_size=1, max_size=60)


def space_of(texts: Sequence[Sequence[str]]) -> Namespace:
    return namespace_of(memory(number, " ".join(terms)) for number, terms in enumerate(texts))


@given(texts, st.dictionaries(st.sampled_from("abcdefgh"), st.floats(0.5, 9)), st.integers(1, 9))
def test_the_memories_with_the_heaviest_terms_are_found(
    texts: list[list[str]], weights: dict[str, float], count: int
) -> None:
    sums = {n: sum(w for term, w in weights.items() if term in terms) for n, terms in enumerate(texts)}
    sums = {n: total for n, total in sums.items() if total}
    lookup = Lookup(space_of(texts))
    rows = lookup.heaviest(weights, count, lambda rows: np.zeros(len(rows), np.float32), 9).tolist()
    best = Counter(round(total, 6) for total in sorted(sums.values(), reverse=True)[:count])
    assert len(set(rows)) == len(rows) and Counter(round(sums[n], 6) for n in rows) == best


def test_heaviest_ties_are_broken_by_similarity_in_any_order() -> None:
    dice = np.random.default_rng(7)
    vectors = unit(dice.normal(size=(400, POOLED)).astype(np.float32))
    query = unit(vectors[[123]] + vectors[[321]])

    def heaviest(order: Sequence[int], count: int) -> set[int]:
        space = namespace_of(
            memory(number, " ".join(["all", "odd"][: 1 + number % 2]), vectors[number]) for number in order
        )
        space.pooled.nearest(query, 1)
        similarity = partial(space.pooled.similarity, query[0])
        rows = Lookup(space).heaviest({"all": 1.0, "odd": 2.0}, count, similarity, 400)
        assert len(rows) == count
        return set(numbers_of(space, rows.tolist()))

    order = list(range(400))
    assert heaviest(order, 2) == {123, 321}
    assert heaviest(order, 50) == heaviest(order[::-1], 50) == heaviest(dice.permutation(400).tolist(), 50)
    assert heaviest(order, 250) > set(range(1, 400, 2))


@given(texts, st.integers(0, 9))
def test_counts_of_term_sets_are_those_of_plain_sets(texts: list[list[str]], bound: int) -> None:
    terms, sets = "abcdefgh", np.arange(256, dtype=np.uint64)
    lookup = Lookup(space_of(texts))

    def count(bits: int) -> int:
        wanted = {term for i, term in enumerate(terms) if bits >> i & 1}
        rarest = min((sum(term in words for words in texts) for term in wanted), default=0)
        return sum(wanted <= set(words) for words in texts) if 1 < rarest <= bound else rarest

    expected = [count(bits) for bits in range(256)]
    assert lookup.counts(terms, sets, bound).tolist() == expected
    assert lookup.counts(terms, sets, bound).tolist() == expected  # the second time from what is kept
