"""Tests of the retriever without a model, one prompt alone and many at once."""

import numpy as np
import pytest

from pipeline.ingest.encoding import PromptEncoding
from pipeline.memory import table
from pipeline.memory.bank import Bank, memory_id
from pipeline.retrieve.evidence import WORDS
from pipeline.retrieve.retriever import retrieve, retrieve_all
from tests.retrieve.samples import FACTS, PROMPTS, bank_of, memory, prompt_encoding


def found(bank: Bank, prompt: PromptEncoding) -> list[tuple[str, float]]:
    return [(hit.memory.text, round(hit.score, 3)) for hit in retrieve(bank, ["n"], prompt, 3)]


def test_every_hit_has_evidence_of_its_words_and_a_shut_gate() -> None:
    bank = bank_of(FACTS)
    for prompt in PROMPTS:
        hits = retrieve(bank, ["n"], prompt, 5)
        words = np.array([hit.words for hit in hits])
        assert words.shape == (5, len(WORDS)) and np.isfinite(words).all()
        assert not any(hit.gate or hit.probability or hit.doubted_by for hit in hits), "nobody has read them"
        assert words[:, WORDS.index("score")].tolist() == [hit.score for hit in hits]
        assert words[0, WORDS.index("share_of_best")] == 1.0
        first, *others = words[:, WORDS.index("matching_share_undated")].tolist()
        assert first > max(others)


def test_a_prompt_finds_its_fact_in_any_order_of_the_memories() -> None:
    one, other = bank_of(FACTS), bank_of(FACTS[::-1])
    for prompt, fact in zip(PROMPTS, FACTS, strict=False):
        hits = found(one, prompt)
        assert hits[0][0] == fact
        assert hits == found(other, prompt)


def test_prompts_asked_together_find_what_each_finds_alone() -> None:
    bank = bank_of(FACTS)
    for one in FACTS[200:250]:
        bank.remove("n", memory_id("n", one))
    together = retrieve_all(bank, [["n"], ["n", "other"]] * 20, PROMPTS, 3)
    for prompt, hits in zip(PROMPTS, together, strict=True):
        alone = retrieve(bank, ["n"], prompt, 3)
        assert [(h.memory.text, h.score) for h in hits] == [(h.memory.text, h.score) for h in alone]
    assert retrieve_all(bank, [["other"], []], PROMPTS[:2], 3) == [[], []]
    assert retrieve_all(bank, [["n"]], [prompt_encoding("?")], 3) == [[]]


def test_removed_memories_are_not_found_and_the_others_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "_MIN_REMOVED", 20)
    bank = bank_of(FACTS)
    retrieve(bank, ["n"], PROMPTS[0], 3)  # the pooled states are there before anybody leaves
    for fact in FACTS[1::2]:
        bank.remove("n", memory_id("n", fact))
    for fact in FACTS[1::4]:
        bank.put(memory(fact))
    gone = set(FACTS[3::4])
    fresh = bank_of([fact for fact in FACTS if fact not in gone])
    for prompt, fact in zip(PROMPTS, FACTS, strict=False):
        hits = found(bank, prompt)
        assert (hits[0][0] == fact) == (fact not in gone) and not {text for text, _ in hits} & gone
        assert hits == found(fresh, prompt)
