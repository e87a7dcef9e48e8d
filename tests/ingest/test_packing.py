"""Packed passes: a text's numbers are those of the model, and the same in any company."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.ingest.encoder import Encoder
from pipeline.ingest.packing import TOKENS, Packing, packing_of, packs
from pipeline.ingest.token_states import token_states
from pipeline.model.backbone import Backbone

FACTS = ["A lamp.", "The Harlow desk lamp is made of walnut.", "Ines Okafor keeps the rota at gate C11. " * 4]


@pytest.fixture(scope="module", params=["gpt2", "llama", "default"])
def backbone(request: pytest.FixtureRequest) -> Backbone:
    name = request.param
    return Backbone.load(name if name == "default" else request.getfixturevalue(name), device="cpu")


@pytest.fixture(scope="module")
def packing(backbone: Backbone) -> Packing:
    made = packing_of(backbone)
    assert made is not None
    return made


class Plain:
    """A calibration that leaves the states as they are."""

    layer = 1

    def whiten(self, states: torch.Tensor) -> torch.Tensor:
        return states


def test_packs_hold_every_text_once_with_equal_lengths_together() -> None:
    lengths = random.Random(3).choices(range(1, TOKENS + 1), k=300)
    found = packs(lengths)
    assert sorted(i for pack in found for i in pack.indices) == list(range(300))
    for pack in found:
        own = [lengths[i] for i in pack.indices]
        assert sum(own) <= TOKENS and own == sorted(own, reverse=True)
    assert packs([]) == []


def test_short_facts_leave_little_room() -> None:
    lengths = random.Random(5).choices(range(9, 22), k=500)
    assert len(packs(lengths)) <= -(-sum(lengths) // TOKENS) + 1


def test_a_texts_numbers_are_the_same_in_any_company(backbone: Backbone, packing: Packing) -> None:
    rows = [
        backbone.lead + t.ids for t in backbone.tokenize([f"{fact} {n}" for n in range(7) for fact in FACTS])
    ]
    calibration: Any = Plain()
    together = token_states(backbone, calibration, rows, fixed=True, packing=packing)
    for i in (0, 1, 2, 10, 20):
        (alone,) = token_states(backbone, calibration, [rows[i]], fixed=True, packing=packing)
        assert np.array_equal(alone[0], together[i][0]) and np.array_equal(alone[1], together[i][1])


@pytest.mark.parametrize("fixed", [True, False])
def test_packed_numbers_are_the_models_own(llama: Path, fixed: bool) -> None:
    """Those of facts, and those of prompts, which the lean decoder reads."""
    backbone = Backbone.load(llama, device="cpu", dtype="float32")
    assert backbone.decoder is not None
    rows = [backbone.lead + t.ids for t in backbone.tokenize(FACTS * 2)]
    calibration: Any = Plain()
    packed = token_states(backbone, calibration, rows, fixed, packing=Packing(backbone) if fixed else None)
    for row, (losses, states) in zip(rows, packed, strict=True):
        ids = torch.tensor([row])
        with torch.inference_mode():
            output = backbone.model(input_ids=ids, output_hidden_states=True)
            want = torch.nn.functional.cross_entropy(output.logits[0, :-1], ids[0, 1:], reduction="none")
        assert np.allclose(losses, want, atol=1e-4)
        assert np.allclose(states, output.hidden_states[1][0, len(backbone.lead) :], atol=1e-4)


def test_a_text_longer_than_a_row_is_encoded_beside_packed_ones(gpt2: Path) -> None:
    encoder = Encoder.load(str(gpt2), device="cpu", dtype="float32")
    word_tokens = len(encoder.backbone.tokenize(["lamp "])[0].ids)
    room = encoder.backbone.max_positions // word_tokens - 2
    texts = ["A lamp.", "lamp " * room]
    both = encoder.encode(texts)
    for text, together in zip(texts, both, strict=True):
        (alone,) = encoder.encode([text])
        assert together.base_loss == alone.base_loss and np.array_equal(together.vectors, alone.vectors)


def test_the_model_itself_stays_as_it_is(backbone: Backbone, packing: Packing) -> None:
    assert backbone.model.config._attn_implementation != packing._hidden._model.config._attn_implementation
    mine, theirs = (list(model.parameters()) for model in (packing._hidden._model, backbone.model))
    assert len(mine) == len(theirs) and all(a is b for a, b in zip(mine, theirs, strict=True))


def test_a_model_that_does_otherwise_is_not_packed(llama: Path) -> None:
    """A window shorter than a row, positions that it does not take, and a layer that mixes tokens by itself."""
    windowed = Backbone.load(llama, device="cpu", dtype="float32")
    windowed.model.config.sliding_window = TOKENS // 2
    assert packing_of(windowed) is None
    without = Backbone.load(llama, device="cpu", dtype="float32")
    without.accepts.remove("position_ids")
    assert packing_of(without) is None
    mixing = Backbone.load(llama, device="cpu", dtype="float32")
    assert packing_of(mixing) is not None
    forward = mixing.model.model.layers[0].mlp.forward
    mixing.model.model.layers[0].mlp.forward = lambda x: forward(x) + x.cumsum(1)
    assert packing_of(mixing) is None
