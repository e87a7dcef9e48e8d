"""Search among pooled states: exact, and the same for one query and for many."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.ingest.quantize import pack, unit
from pipeline.memory.pooled import POOLED, pool_packed
from tests.memory.samples import memory, namespace_of, numbers_of


def states(count: int, seed: int) -> np.ndarray:
    return unit(np.random.default_rng(seed).normal(size=(count, POOLED)).astype(np.float32))


@settings(deadline=None)  # the first search imports faiss
@given(st.lists(st.tuples(st.integers(0, 9), st.booleans(), st.booleans()), max_size=60))
def test_a_memory_is_the_nearest_to_its_own_state(steps: list[tuple[int, bool, bool]]) -> None:
    space, held, vectors = namespace_of([]), set[int](), states(10, 0)
    for number, adding, searching in steps:
        if adding and number not in held:
            space.put(memory(number, "one", vectors[number]))
            held.add(number)
        elif not adding and number in held:
            space.remove(memory(number, "one"))
            held.remove(number)
        if searching:
            space.pooled.nearest(vectors[:1], 1)
    for number in held:
        [rows] = space.pooled.nearest(vectors[number][None], 1)
        assert numbers_of(space, rows.tolist()) == [number]
    [rows] = space.pooled.nearest(vectors[:1], 20)
    assert sorted(numbers_of(space, rows.tolist())) == sorted(held)


@pytest.mark.parametrize("removed", [0, 700, 1100])
def test_states_near_many_queries_are_those_near_each(removed: int) -> None:
    """Of 1,100 removals the last ones renumber the rows."""
    space = namespace_of(memory(n, "one", state) for n, state in enumerate(states(2500, 4)))
    queries = states(40, 5)

    def nearest(some: np.ndarray) -> list[list[int]]:
        return [sorted(numbers_of(space, rows.tolist())) for rows in space.pooled.nearest(some, 20)]

    nearest(queries[:1])
    for number in range(removed):
        space.remove(memory(2 * number, "one"))
    together = nearest(queries)
    assert together == [nearest(query[None])[0] for query in queries]
    assert not {n for numbers in together for n in numbers} & set(range(0, 2 * removed, 2))


def test_similarity_does_not_depend_on_which_rows_are_compared() -> None:
    space = namespace_of(memory(n, "one", state) for n, state in enumerate(states(300, 11)))
    [query] = states(1, 12)
    space.pooled.nearest(query[None], 1)
    together = space.pooled.similarity(query, np.arange(300))
    assert len(set(together.tolist())) > 200
    for few in (1, 3, 16):
        for start in range(0, 300 - few):
            rows = np.arange(start, start + few)
            assert space.pooled.similarity(query, rows).tolist() == together[rows].tolist()


def test_texts_without_states_have_a_pooled_state_of_zero() -> None:
    [vector] = states(1, 3)
    one = (pack(vector[None]), np.ones(1, np.float32))
    none = (np.zeros((2, 0), np.uint8), np.ones(2, np.float32))
    pooled = pool_packed([none, one, none])
    assert (pooled[[0, 2]] == 0).all() and (pooled[1] == pool_packed([one])[0]).all()
    assert not pool_packed([none]).any()
