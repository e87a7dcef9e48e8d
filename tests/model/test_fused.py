"""The fused step: the numbers of the decoder's own loop, for the builds that it fits."""

from importlib import util
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("numba", reason="numba is not installed: pip install 'factstream[fast]'")

from pipeline.model.lean import fused
from pipeline.model.lean.decoder import Decoder
from tests.model.builds import BUILDS, network

FITS = {"llama", "llama, long", "qwen2"}
PROMPTS = [[5, 6, 7, 8, 9, 20, 21], [3], [11, 12, 13] * 30]


def decoder_of(build: str, dtype: torch.dtype = torch.float32) -> Decoder:
    made = Decoder.of(network(build).to(dtype), packed=True)
    assert made is not None
    return made


@pytest.mark.parametrize("build", sorted(FITS))
@pytest.mark.parametrize("rows", [1, 3, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_its_numbers_are_those_of_the_decoders_own_loop(build: str, rows: int, dtype: torch.dtype) -> None:
    decoder = decoder_of(build, dtype)
    assert decoder._fused is not None and decoder._fused.most_rows >= 4
    prompts = (PROMPTS * 2)[-rows:]
    # In bfloat16 the loop itself misses the exact logits by up to .1.
    tolerance = 0.02 if dtype == torch.float32 else 0.2
    logits, cache = decoder.prefill([()] * rows, prompts)
    _, other = decoder.prefill([()] * rows, prompts)
    ids, own = logits.argmax(-1), decoder._fused
    for _ in range(60):  # past the cache's width
        decoder._fused = own
        found = decoder.step(ids, cache)
        decoder._fused = None
        want = decoder.step(ids, other)
        assert ((found - want).norm(dim=1) < tolerance * want.norm(dim=1)).all()
        ids = want.argmax(-1)
    assert cache.lengths == other.lengths
    assert (cache.states - other.states).norm() < 0.02 * other.states.norm()


@pytest.mark.parametrize("build", sorted(set(BUILDS) - FITS))
def test_other_builds_are_left_to_the_decoders_own_loop(build: str) -> None:
    assert decoder_of(build)._fused is None


def test_other_arithmetic_too(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Decoder.of(network("llama"), packed=False)
    half = Decoder.of(network("llama").half(), packed=True)
    assert whole and half and whole._fused is None and half._fused is None
    find = util.find_spec
    monkeypatch.setattr(fused, "find_spec", lambda name: None if name == "numba" else find(name))
    assert decoder_of("llama")._fused is None


def test_more_rows_are_computed_by_the_decoders_own_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = decoder_of("llama")
    rows = decoder._fused.most_rows + 1  # type: ignore[union-attr]
    calls: list[Any] = []
    monkeypatch.setattr(fused.Fused, "__call__", lambda *given: calls.append(given))
    _, cache = decoder.prefill([()] * rows, PROMPTS[:1] * rows)
    assert decoder.step(torch.tensor([5] * rows), cache).shape[0] == rows and not calls


def test_exponentials_are_right_to_a_millionth() -> None:
    from pipeline.model.lean.kernels import exponentiate

    values = np.concatenate([np.linspace(-87, 88, 100_001), [0, -0.0, 1e-30]]).astype(np.float32)
    want, found = np.exp(values.astype(np.float64)), values.copy()
    exponentiate(found)
    assert np.abs(found / want - 1).max() < 1e-6
    far = np.array([-1e30, -1000, 1000], np.float32)
    exponentiate(far)
    assert (far[:2] < 1e-37).all() and np.isfinite(far[2])
