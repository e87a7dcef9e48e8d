"""Decisions: what becomes of a fact, a forget and a use, given the bank."""

from collections import Counter
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import Settings
from pipeline.decide.decide import decide_fact
from pipeline.decide.requests import decide_forget, decide_use
from pipeline.memory.bank import Bank
from pipeline.memory.events import ForgetRequest, NewFact, SourceOffset
from tests.decide.samples import START, encoding, feed


def outcomes(*facts: tuple[str, dict[str, Any]]) -> list[str]:
    return [decision.outcome for decision in feed(Bank(), *facts)]


def test_a_newer_fact_supersedes_and_an_older_one_changes_nothing() -> None:
    bank = Bank()
    decisions = feed(
        bank,
        ("Torben Betts was from Munich.", {"at": 5}),
        ("Torben Betts was from Melbourne.", {"at": 6}),
        ("Torben Betts was from Perth.", {"at": 1}),
    )
    assert [d.outcome for d in decisions] == ["learned", "superseded", "outdated"]
    assert decisions[1].nearest == decisions[0].memory_id
    assert [m.text for m in bank.memories("default")] == ["Torben Betts was from Melbourne."]


def test_facts_about_other_subjects_are_learned() -> None:
    same_form: tuple[tuple[str, dict[str, Any]], ...] = (
        ("The Airbus A340 is made in Toulouse.", {}),
        ("The Airbus A350 is made in Hamburg.", {}),
        ("Nick Laird was from Munich.", {}),
        ("Torben Betts was from Munich.", {}),
    )
    assert outcomes(*same_form) == ["learned"] * 4


def test_the_same_text_reinforces_and_the_same_fact_id_is_decided_once() -> None:
    text = "Torben Betts was from Munich."
    repeated: list[tuple[str, dict[str, Any]]] = [
        (text, {"fact_id": "a"}),
        (text, {"fact_id": "b"}),
        ("Another one, Zorg.", {"fact_id": "a"}),
    ]
    assert outcomes(*repeated) == ["learned", "reinforced", "duplicate"]


def test_a_known_fact_is_skipped_unless_it_contradicts_or_sets_its_threshold() -> None:
    known: dict[str, Any] = {"loss_delta": 0.25}
    assert outcomes(("Torben Betts was from Munich.", known)) == ["skipped"]
    assert outcomes(("Torben Betts was from Munich.", known | {"min_loss_delta": 0.0})) == ["learned"]
    contradiction: tuple[tuple[str, dict[str, Any]], ...] = (
        ("Torben Betts was from Munich.", {}),
        ("Torben Betts was from Stamford.", known),
    )
    assert outcomes(*contradiction) == ["learned", "superseded"]


def test_deciding_changes_nothing() -> None:
    bank = Bank(Settings(capacity=2))
    feed(bank, ("Torben Betts was from Munich.", {"fact_id": "a"}), ("Alpha.", {}))
    [first, _] = list(bank.memories("default"))
    before, state = bank.digest(), bank.decided_state("default")
    for text in ("Torben Betts was from Bonn.", "Torben Betts was from Munich.", "Beta.", "!?"):
        fact = NewFact(
            "default", encoding(text), START, START, SourceOffset("facts", "t", 0, 9), fact_id="b"
        )  # fmt: skip
        assert decide_fact(bank, fact, START) == decide_fact(bank, fact, START)
    request = ForgetRequest("default", first.memory_id, False, START, SourceOffset("facts", "t", 0, 9))
    decide_forget(bank, request, START)
    decide_use(bank, "default", first.memory_id, 1.0, "r", SourceOffset("memory-hits", "h", 0, 0), START)
    assert (bank.digest(), bank.decided_state("default")) == (before, state)


@pytest.mark.parametrize(("erase", "outcome"), [(False, "forgotten"), (True, "erased")])
def test_a_memory_is_forgotten_and_an_erasure_does_not_repeat_its_text(erase: bool, outcome: str) -> None:
    bank = Bank()
    [learned] = feed(bank, ("Torben Betts was from Munich.", {}))
    cause = SourceOffset("facts", "t", 0, 1)
    request = ForgetRequest("default", str(learned.memory_id), erase, START, cause)
    [decision] = decide_forget(bank, request, START)
    assert decision.outcome == outcome and decision.text == (None if erase else learned.text)
    bank.apply(decision)
    assert not len(bank)
    assert decide_forget(bank, request, START)[0].text is None


def test_a_use_and_a_half_life_move_the_importance() -> None:
    bank = Bank()
    [learned] = feed(bank, ("Alpha.", {}))
    before = bank.get("default", str(learned.memory_id))
    assert before is not None
    importance = before.importance
    cause = SourceOffset("memory-hits", "h", 0, 0)
    for decision in decide_use(bank, "default", before.memory_id, 1.0, "r", cause, START):
        bank.apply(decision)
    after = bank.get("default", before.memory_id)
    assert after is not None and after.uses == 1 and after.importance > importance
    assert before.uses == 0 and before.importance == importance  # a memory that was read stays as it was
    # The same importance earned a half-life later counts for double.
    half_life = timedelta(days=bank.settings.half_life_days)
    late = NewFact("default", encoding("Beta."), START, START + half_life, SourceOffset("facts", "t", 0, 9))
    [learned_late] = decide_fact(bank, late, START)
    assert learned_late.importance == pytest.approx(importance + 1.0, abs=1e-3)


def test_a_use_of_a_memory_that_was_removed_is_recorded_without_importance() -> None:
    cause = SourceOffset("memory-hits", "h", 0, 0)
    [decision] = decide_use(Bank(), "default", "a" * 32, 0.5, "r", cause, START)
    assert (decision.outcome, decision.gate, decision.importance) == ("used", 0.5, None)


def test_a_full_namespace_evicts_the_least_important_of_the_largest_category() -> None:
    bank = Bank(Settings(capacity=3))
    decisions = feed(
        bank,
        ("Alpha.", {"category": "big", "loss_delta": 1.0}),
        ("Beta.", {"category": "big", "loss_delta": 8.0}),
        ("Gamma.", {"category": "small", "loss_delta": 1.0}),
        ("Delta.", {"category": "other", "loss_delta": 1.0}),
    )
    assert [d.outcome for d in decisions] == ["learned"] * 4 + ["evicted"]
    assert decisions[-1].text == "Alpha." and len(bank) == 3


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.floats(0.5, 9.0)), min_size=1, max_size=120))
def test_a_full_namespace_keeps_its_categories_in_balance(facts: list[tuple[str, float]]) -> None:
    bank, capacity = Bank(Settings(capacity=12)), 12
    fed = [
        (f"Subject{n:04}x.", {"category": category, "loss_delta": loss_delta, "min_loss_delta": 0.0})
        for n, (category, loss_delta) in enumerate(facts)
    ]
    for decision in feed(bank, *fed):
        assert decision.outcome in ("learned", "evicted")
    assert len(bank) <= capacity
    arrived = Counter(category for category, _ in facts)
    kept = Counter(memory.category for memory in bank.memories("default"))
    for category, count in arrived.items():
        assert kept[category] >= min(count, capacity // len(arrived)) / 2


def test_a_text_without_words_is_one_memory_however_often_it_arrives() -> None:
    bank = Bank(Settings(capacity=2))
    decisions = feed(
        bank,
        ("!?", {"category": "a"}),
        ("!?", {"category": "b"}),
        ("Alpha.", {"category": "a"}),
        ("Beta.", {"category": "a"}),
    )
    assert [d.outcome for d in decisions] == ["learned", "reinforced", "learned", "learned", "evicted"]
    assert len(bank) == 2
