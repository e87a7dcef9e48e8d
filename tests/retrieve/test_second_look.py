"""The second look on a small random model, with weights made by hand."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipeline import MemoryLM
from pipeline.fit.prefix import untuned
from pipeline.ingest.encoder import Encoder
from pipeline.model.weights import Weights
from pipeline.retrieve.ranker import Asked
from pipeline.retrieve.retriever import retrieve
from pipeline.retrieve.second_look import PAIR, Pair, Query, pairs_of
from tests.helpers.weights import NUMBERS, encoder_of

WORKS = "Ola has a desk at Lindqvell Optics."
OFFICE = "Lindqvell Optics has its seat in Port Asher."
OTHERS = ["The kettle is red.", "Nobody feeds the heron.", "Ostrel lies on a hill."]
PROMPT = "Ola has a desk in the town of"


def weights_of(encoder: Encoder, bias: float, **evidence: float) -> Weights:
    """Weights with a prefix, whose second look judges by this evidence."""
    pair = torch.tensor([*(evidence.get(name, 0.0) for name in PAIR), bias])
    return replace(encoder.weights, prefix=untuned(encoder.backbone), pair=pair)


@pytest.fixture
def encoder(llama: Path) -> Encoder:
    return encoder_of(llama, numbers=NUMBERS._replace(beside=0.9))


def lm_of(encoder: Encoder, weights: Weights, *facts: str) -> MemoryLM:
    made = MemoryLM(Encoder(encoder.backbone, calibration=encoder.calibration, weights=weights))
    made.learn(facts, min_loss_delta=-100.0)
    return made


def read(lm: MemoryLM, prompt: str = PROMPT, k: int = 3) -> list[str]:
    [hits] = lm.retrieve([prompt], k=k)
    return [hit.text for hit in hits if hit.gate > 0]


def pairs(lm: MemoryLM, prompt: str = PROMPT) -> list[Pair]:
    ranker, [encoded] = lm._preparer._ranker, lm.encoder.encode_prompts([prompt])
    [hits] = ranker.rank([Asked(prompt, retrieve(lm.bank, ["default"], encoded, 6))])
    [found] = pairs_of(lm.encoder, lm.bank, [Query(prompt, ["default"], hits)])
    return found


def test_a_partner_that_the_answer_needs_is_read_with_the_same_gate(encoder: Encoder) -> None:
    lm = lm_of(encoder, weights_of(encoder, bias=-1.0, bridge_most=1.0), WORKS, OFFICE, *OTHERS)
    assert read(lm) == [WORKS, OFFICE]
    first, second = lm.retrieve([PROMPT], k=3)[0][:2]
    assert first.gate == second.gate > 0


def test_a_partner_that_the_answer_does_not_need_is_not_read(encoder: Encoder) -> None:
    lm = lm_of(encoder, weights_of(encoder, bias=-1.0, bridge_most=-1.0), WORKS, OFFICE, *OTHERS)
    assert read(lm) == [WORKS]


def test_partners_share_a_word_that_the_prompt_lacks(encoder: Encoder) -> None:
    lm = lm_of(encoder, weights_of(encoder, bias=-20.0), WORKS, OFFICE, "Ola has a dog.", *OTHERS)
    found = pairs(lm)
    assert [pair.partner.memory.text for pair in found] == [OFFICE]
    evidence = dict(zip(PAIR, found[0].evidence, strict=True))
    assert (
        evidence["bridge"] > evidence["bridge_most"] > 0 and torch.tensor(found[0].evidence).isfinite().all()
    )


def test_a_partner_is_found_that_has_no_word_of_the_prompt(encoder: Encoder) -> None:
    many = [f"The town of Ostrel {n} has a desk." for n in range(30)]
    lm = lm_of(encoder, weights_of(encoder, bias=20.0), WORKS, "Lindqvell Optics: Port Asher", *many)
    assert "Lindqvell Optics: Port Asher" in {pair.partner.memory.text for pair in pairs(lm)}


def test_one_partner_is_read_of_many(encoder: Encoder) -> None:
    names = (
        "Marta trusts",
        "A ferry carries",
        "Two gulls watch",
        "Rain floods",
        "The mayor sued",
        "Ivo painted",
    )
    lm = lm_of(
        encoder, weights_of(encoder, bias=20.0), WORKS, *(f"{name} Lindqvell Optics." for name in names)
    )
    assert len(pairs(lm)) > 2 and len(read(lm)) == 2


def test_a_shut_gate_stays_shut(encoder: Encoder) -> None:
    lm = lm_of(encoder, weights_of(encoder, bias=20.0), WORKS, OFFICE, *OTHERS)
    assert read(lm, "Who wrote the hymn?") == [] and pairs(lm, "Who wrote the hymn?") == []


def test_a_model_without_a_prefix_looks_once(encoder: Encoder) -> None:
    weights = replace(weights_of(encoder, bias=20.0), prefix=encoder.weights.prefix)
    lm = lm_of(encoder, weights, WORKS, OFFICE, *OTHERS)
    assert read(lm) == [WORKS] and pairs(lm) == []


def test_another_namespace_is_not_looked_into(encoder: Encoder) -> None:
    lm = lm_of(encoder, weights_of(encoder, bias=20.0), WORKS, *OTHERS)
    lm.learn([OFFICE], namespace="other", min_loss_delta=-100.0)
    assert read(lm) == [WORKS]
