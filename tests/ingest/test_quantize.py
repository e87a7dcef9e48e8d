"""Tests of states in two bits a dimension, and of their cosines."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.ingest.quantize import cosines, pack, unit, unpack


@given(st.integers(0, 5), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_a_packed_vector_keeps_its_direction(words: int, d: int, seed: int) -> None:
    vectors = unit(np.random.default_rng(seed).normal(size=(words, d)).astype(np.float32))
    packed = pack(vectors)
    assert packed.shape == (words, -(-d // 4)) and packed.dtype == np.uint8
    back = unpack(packed, d)
    assert back.shape == vectors.shape and ((back >= 0) == (vectors >= 0)).all()
    assert (vectors * back).sum(1, initial=0.0).min(initial=1.0) > 0.5


@given(st.integers(1, 6), st.integers(1, 30), st.integers(0, 2**32 - 1))
def test_cosines_of_packed_states_are_those_of_unpacked_ones(count: int, d: int, seed: int) -> None:
    dice = np.random.default_rng(seed)
    a, b = (unit(dice.normal(size=(n, d)).astype(np.float32)) for n in (3, count))
    assert np.allclose(cosines(a, pack(b), d), a @ unpack(pack(b), d).T, atol=1e-5)


@given(st.integers(1, 600), st.integers(2, 33), st.integers(0, 2**32 - 1))
def test_a_cosine_does_not_depend_on_where_a_word_stands(d: int, count: int, seed: int) -> None:
    dice = np.random.default_rng(seed)
    a, b = (unit(dice.normal(size=(n, d)).astype(np.float32)) for n in (count, 200))
    packed, order = pack(b), dice.permutation(200)
    every = cosines(a, packed, d)
    assert (cosines(a, packed[order], d) == every[:, order]).all()
    assert (cosines(a[1:2], packed[:100], d) == every[1:2, :100]).all()
