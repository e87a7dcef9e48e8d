"""Tests of what the model reads, and of the evidence that follows from it, without a model."""

from datetime import UTC, datetime
from math import log

import numpy as np
import pytest
import torch

from pipeline.model.contexts import Reading
from pipeline.model.reading import EXAMPLES, context_of
from pipeline.retrieve.alignment import Alignment
from pipeline.retrieve.evidence import (
    FEATURES,
    LIST,
    READ,
    WORDS,
    list_evidence,
    reading_evidence,
    word_evidence,
)
from pipeline.text.annotate import AnnotatedText
from tests.retrieve.samples import prompt_encoding

V = 12


def reading(logits: dict[int, float], token_log_p: list[float]) -> Reading:
    """What a model says whose next token has these logits; all others have 0."""
    all_logits = torch.zeros(V)
    for token, logit in logits.items():
        all_logits[token] = logit
    return Reading(torch.zeros(4, 2, 8), all_logits.log_softmax(-1), torch.tensor(token_log_p))


def read(with_fact: Reading, bare: Reading, fact: list[int], prompt: list[int]) -> dict[str, float]:
    return dict(zip(READ, reading_evidence(with_fact, bare, fact, prompt, none=0), strict=True))


def test_facts_are_read_after_the_examples_one_a_line() -> None:
    examples, facts = context_of(["One\nfact\t of  three lines.", "Another."])
    assert examples == EXAMPLES and facts == "One fact of three lines.\nAnother.\n"


def test_evidence_has_the_rise_of_the_prompts_tokens() -> None:
    found = read(
        reading({}, [-1.0, -1.0, -5.0, -1.0]), reading({}, [-2.0, -4.0, -1.0, -2.0]), [1, 2], [3, 4, 5, 6, 7]
    )
    assert [found[name] for name in READ[:5]] == pytest.approx([1.0, 0.25, -3.0, 3.0, -4.0])


def test_evidence_has_the_change_of_the_next_token() -> None:
    told, bare = reading({7: 9.0}, [-1.0]), reading({8: 9.0}, [-1.0])
    found = read(told, bare, fact=[1, 7], prompt=[1, 2])
    assert found["p_of_fact"] > 0.9 > 0.1 > found["q_of_fact"]
    assert found["top_in_fact"] == 1.0 and found["fact_implausible"] == 0.0 and found["divergence"] > 5
    assert found["log_p_top"] == found["log_p_best"] and found["log_q_top"] < -5
    elsewhere = read(told, bare, fact=[1, 3], prompt=[1, 2])
    assert elsewhere["top_in_fact"] == 0.0 and elsewhere["fact_implausible"] == 1.0
    same = read(told, told, fact=[1, 7], prompt=[1, 2])
    assert same["divergence"] == same["d_sum"] == 0.0


def test_a_candidate_is_seen_among_newer_and_older_ones_that_answer() -> None:
    times = [datetime(2026, 1, day, tzinfo=UTC) for day in (2, 3, 1, 2)]
    none = READ.index("log_p_none")
    answers = [0.5, 0.9, 0.2, 0.7]
    read_of = [[log(1 - p) if n == none else 0.0 for n in range(len(READ))] for p in answers]
    found = [dict(zip(LIST, list_evidence(n, True, times, read_of), strict=True)) for n in range(len(times))]
    assert [one["newer_answers"] for one in found] == pytest.approx([0.9, 0.0, 0.9, 0.9])
    assert [one["older_answers"] for one in found] == pytest.approx([0.2, 0.7, 0.0, 0.2])
    assert [one["other_answers"] for one in found] == pytest.approx([0.9, 0.7, 0.9, 0.9])
    (alone,) = [list_evidence(0, False, times[:1], read_of[:1])]
    assert alone == [0, 0, 0, 1, 0, 0, 0]


@pytest.mark.parametrize("prompt", [[3], [3, 3], [1, 2, 3]])
@pytest.mark.parametrize("fact", [[], [3], [1, 2, 3], [5]])
@pytest.mark.parametrize("logit", [0.0, 1e4, -1e4])
def test_reading_evidence_is_finite(prompt: list[int], fact: list[int], logit: float) -> None:
    """Of a prompt of one token, of a fact that says nothing new, and of a model that is sure."""
    after = [-1e4] * (len(prompt) - 1)
    for a, b in (({5: logit}, {}), ({}, {5: logit}), ({5: logit}, {5: -logit})):
        found = reading_evidence(reading(a, after), reading(b, [0.0] * len(after)), fact, prompt, none=0)
        assert len(found) == len(READ) and np.isfinite(found).all()


@pytest.mark.parametrize("text", ["Which river spans Oslo", "a", "?", "", "1", "Oslo Oslo Oslo", "東京 🦊"])
@pytest.mark.parametrize("fact", [[], ["oslo"], ["the", "lamp"]])
def test_word_evidence_is_finite(text: str, fact: list[str]) -> None:
    prompt, none = prompt_encoding(text), np.zeros(0)
    for idf in (np.zeros(len(prompt.terms)), np.full(len(prompt.terms), 9.0)):
        for best in (0.0, -2.0, 4.0):
            text_of_fact = AnnotatedText(" ".join(fact), np.full(len(fact), 9.0, np.float32))
            alignment = Alignment(none > 0, (0, 0), 0.0, 0.0, none)
            found = word_evidence(prompt, idf, text_of_fact, alignment, 1.0, best)
            assert found.shape == (len(WORDS),) and np.isfinite(found).all()


def test_word_evidence_tells_names_that_the_fact_lacks() -> None:
    prompt, none = prompt_encoding("Mira Holt lives in"), np.zeros(0)
    whole = Alignment(none > 0, (0, 0), 0.5, 0.75, none)
    fact = AnnotatedText("Mira lives", np.array([12.0, 4.0], np.float32))
    found = dict(
        zip(
            WORDS,
            word_evidence(prompt, np.array([4.0, 5.0, 2.0, 1.0]), fact, whole, 3.0, 6.0),
            strict=True,
        )
    )
    assert found == pytest.approx(
        {
            "score": 3.0, "share_of_best": 0.5, "matching_share": 0.5, "matching_share_undated": 0.75, "idf_shared": 6.0,
            "idf_missing": 6.0, "share_of_idf": 0.5, "names_missing": 1.0, "names_shared": 1.0, "most_missing": 5.0,
            "fact_words": 2.0, "prompt_words": 4.0, "alike_nats": 0.0, "alike_share": 0.0, "alike_letters": 0.0, "alike_name": 0.0,
        }
    )  # fmt: skip


def test_every_number_of_the_evidence_has_one_name() -> None:
    assert len(set(FEATURES)) == len(FEATURES) == len(WORDS) + len(READ) + len(LIST)
