"""The ranker on small random models, with weights made by hand."""

import numpy as np
import pytest
import torch

from pipeline.config import Settings
from pipeline.ingest.encoder import Encoder
from pipeline.model.contexts import Contexts, Prompt, Reading
from pipeline.retrieve.evidence import FEATURES, WORDS
from pipeline.retrieve.hit import Hit
from pipeline.retrieve.ranker import Asked, Candidates, Ranker
from tests.helpers.weights import BY_WORDS, OPEN, SHUT, encoder_of, weights_for
from tests.retrieve.samples import memory

LAMP, DESK, KETTLE = "The lamp is made of walnut.", "The desk is made of oak.", "The kettle is red."
SHARE = WORDS.index("matching_share_undated")


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def encoder(request: pytest.FixtureRequest) -> Encoder:
    return encoder_of(request.getfixturevalue(request.param))


def ranker(encoder: Encoder, none: float = 20.0, settings: Settings | None = None) -> Ranker:
    backbone = encoder.backbone
    return Ranker(backbone, Contexts(backbone), weights_for(backbone, none), settings or Settings())


def hit(text: str, share: float = 1.0, day: int = 0) -> Hit:
    words = np.zeros(len(WORDS))
    words[SHARE] = share
    return Hit(memory(text, day=day), 5.0, words, text)


def asked(text: str, *hits: Hit) -> Asked:
    return Asked(text, hits)


def candidates(encoder: Encoder, one: Asked, settings: Settings | None = None) -> Candidates:
    (found,) = ranker(encoder, settings=settings).candidates([one])
    assert found is not None
    return found


def test_the_likeliest_fact_is_first_and_the_unread_come_last(encoder: Encoder) -> None:
    hits = [hit(KETTLE, 0.1), hit(LAMP, 0.9), *(hit(f"Nobody knows {n}.", 0.99) for n in range(3))]
    made = ranker(encoder, settings=Settings(read_candidates=2))
    ((first, second, *others),) = made.rank([asked("The lamp is made of", *hits)])
    assert (first.memory.text, second.memory.text) == (LAMP, KETTLE)
    assert first.probability > 0.9 > 0.1 > second.probability > 0 and first.gate > 0.9 and second.gate == 0
    assert others == hits[2:], "they were not read"


def test_gates_open_or_stay_shut_by_the_logit_of_none(encoder: Encoder) -> None:
    one = asked("The lamp is made of", hit(LAMP, 0.0), hit(DESK, 0.0))
    assert [h.gate > 0 for h in ranker(encoder, OPEN).rank([one])[0]] == [True, False]
    assert not any(h.gate for h in ranker(encoder, SHUT).rank([one])[0])


def test_prompts_ranked_together_get_what_each_gets_alone(encoder: Encoder) -> None:
    prompts = [
        asked("The lamp is made of", hit(LAMP), hit(DESK, 0.5)),
        asked("nobody"),
        asked("Question: What is red?\nAnswer:", hit(KETTLE, 0.6)),
        asked("The desk " * 60, hit(DESK, 0.4), hit(LAMP, 0.2), hit(KETTLE, 0.1)),
    ]
    made = ranker(encoder)
    together = made.rank(prompts)
    for one, hits in zip(prompts, together, strict=True):
        (alone,) = ranker(encoder).rank([one])
        assert [h.memory.text for h in hits] == [h.memory.text for h in alone]
        for a, b in zip(hits, alone, strict=True):
            assert (a.probability, a.gate) == pytest.approx((b.probability, b.gate), abs=1e-4)
    assert together[1] == []
    assert made.rank([]) == []


@pytest.mark.parametrize(
    "text",
    ["?", "\n", " ", "a", "🦊", "Question:\nAnswer:", "<|end|>", "\ufffd", "x" * 5000, "The lamp " * 500],
)
@pytest.mark.parametrize("fact", ["a", "?!", "The lamp is made of walnut.", "The lamp " * 400])
def test_evidence_of_odd_prompts_and_facts_is_finite(encoder: Encoder, text: str, fact: str) -> None:
    """Also of those that are longer than the model's context."""
    found = candidates(encoder, asked(text, hit(fact), hit(LAMP)))
    assert found.evidence.shape == (2, len(FEATURES)) and bool(found.evidence.isfinite().all())
    assert bool(found.states.isfinite().all()) and bool(found.bare.isfinite().all())
    assert found.states.shape[1:] == found.bare.shape


def test_an_empty_prompt_is_not_ranked(encoder: Encoder) -> None:
    one = asked("", hit(LAMP))
    assert ranker(encoder).candidates([one]) == [None]
    assert ranker(encoder, OPEN).rank([one]) == [list(one.hits)]


def test_evidence_tells_a_candidates_place_among_the_others(encoder: Encoder) -> None:
    hits = [hit(LAMP, day=2), hit(DESK, day=3), hit(KETTLE, day=1)]
    names = ("rank", "asks", "newer", "newest", "newer_answers")
    for text, asks in (("The lamp is", 0.0), ("Question: What?\nAnswer:", 1.0)):
        found = candidates(encoder, asked(text, *hits)).evidence
        places = [[float(row[FEATURES.index(name)]) for name in names] for row in found]
        assert places == [[0, asks, 1, 0, 0], [1, asks, 0, 1, 0], [2, asks, 2, 0, 0]], (
            "without a prefix none answers"
        )
    assert set(BY_WORDS) <= set(FEATURES)


@pytest.mark.parametrize(
    "both, first, second, replaces",
    [(5, 5, 6, True), (6, 5, 6, False), (5, 5, 5, False), (7, 5, 6, False)],
)
def test_a_newer_fact_replaces_an_older_one_if_the_model_follows_it_after_both(
    encoder: Encoder, monkeypatch: pytest.MonkeyPatch, both: int, first: int, second: int, replaces: bool
) -> None:
    """Of three readings, after both facts, after the newer one and after the older one, only the likeliest token counts."""
    read: list[tuple[str, ...]] = []

    def said(prompts: list[Prompt]) -> list[Reading]:
        read.extend(prompt.context for prompt in prompts)
        log_p = torch.full((3, 9), -9.0)
        log_p[range(3), [both, first, second]] = -1.0
        log_p[:, 0] = 0.0  # the token that means that no fact answers
        return [Reading(torch.zeros(0), own, torch.zeros(0)) for own in log_p]

    made = ranker(encoder)
    new, old = hit(DESK, day=2), hit(LAMP, day=1)
    assert not made._replaces("The desk is", new, old), "a model without a prefix is not asked"
    made._none = 0
    monkeypatch.setattr(made._contexts, "read", said)
    assert made._replaces("The desk is", new, old) == replaces
    assert [context[-1] for context in read] == [f"{LAMP}\n{DESK}\n", f"{DESK}\n", f"{LAMP}\n"]
