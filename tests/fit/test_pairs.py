"""The fit of the second look: which pairs an answer needs, and where it takes one."""

from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pipeline.bench.wild.scenario import Scenario
from pipeline.fit.pairs import WRONG, Looked, fitted, look_all, untaught
from pipeline.fit.prefix import untuned
from pipeline.ingest.encoder import Encoder
from pipeline.model.weights import Weights, to_bytes
from pipeline.retrieve.second_look import PAIR, Pair
from tests.helpers.weights import NUMBERS, encoder_of, tensors

SCENARIO = Scenario.model_validate(
    {
        "domain": "office",
        "facts": [
            {"id": "f0", "day": 0, "text": "Ola has a desk at Lindqvell Optics."},
            {"id": "f1", "day": 1, "text": "Lindqvell Optics has its seat in Port Asher."},
            {"id": "f2", "day": 2, "text": "Lindqvell Optics grinds lenses."},
        ],
        "asks": [
            {"text": "Ola has a desk in the town of", "facts": ["f0", "f1"], "form": "continuation", "kind": "two hop", "answers": ["Port Asher"]},
            {"text": "Ola has a desk at", "facts": ["f0"], "form": "continuation", "kind": "name", "answers": ["Lindqvell Optics"]},
        ],
    }
)  # fmt: skip


def pair(bridge: float) -> Pair:
    hit: Any = SimpleNamespace()
    return Pair(hit, [bridge, *([0.0] * (len(PAIR) - 1))])


@pytest.fixture
def encoder(llama: Path) -> Encoder:
    made = encoder_of(llama, numbers=NUMBERS._replace(beside=0.9))
    width = made.backbone.model.config.get_text_config().hidden_size
    content = to_bytes(
        made.backbone.hash, made.weights.numbers, tensors(width) | {"prefix": untuned(made.backbone)}
    )
    return Encoder(
        made.backbone, calibration=made.calibration, weights=Weights.from_bytes(content, "made by hand")
    )


def test_a_partner_is_needed_if_a_two_hop_names_it(encoder: Encoder) -> None:
    hops, one = look_all(encoder, [SCENARIO], Random(0), lambda *step: None)
    needed = {p.partner.memory.text: n for p, n in zip(hops.pairs, hops.needed, strict=True)}
    assert needed["Lindqvell Optics has its seat in Port Asher."] and sum(needed.values()) == 1
    assert one.pairs and not any(one.needed), "its fact answers alone"


def test_a_regression_finds_the_needed_and_leaves_the_others() -> None:
    looked = [
        Looked(group, [pair(9.0 if n % 2 else 3.0), pair(1.0)], [bool(n % 2), False])
        for group in range(8)
        for n in range(10)
    ]
    weights, report = fitted(looked)
    assert report.asks == report.others == 40 and report.found == 1.0 and report.wrong is not None
    assert report.wrong <= WRONG
    least = [float(torch.tensor(pair(nats).evidence) @ weights[:-1] + weights[-1]) for nats in (9.0, 3.0)]
    assert least[0] > 0 > least[1] - 1e-4


def test_without_pairs_no_partner_is_taken() -> None:
    weights, report = fitted([])
    assert torch.equal(weights, untaught()) and report.found is None and len(weights) == len(PAIR) + 1
