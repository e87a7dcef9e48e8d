"""The memory bank: what becomes of a fact, and that the memory is a fold over what was decided."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import Settings
from pipeline.ingest.encoding import Encoding
from pipeline.memory.bank import Bank, fold
from pipeline.memory.codec import memory_from_record, memory_to_record
from pipeline.memory.events import Decision, NewFact, SourceOffset
from pipeline.text.words import split
from schemas.changelog import MemoryRecord
from schemas.common import decode, encode

START = datetime(2026, 1, 1, tzinfo=UTC)
COMMON = {"is", "was", "in", "the", "of", "a", "from"}


def encoding(text: str, loss_delta: float = 4.0) -> Encoding:
    words = split(text)
    priors = np.array([2.0 if w.term in COMMON else 12.0 for w in words], np.float32)
    vectors = np.zeros((len(words), 0), np.uint8)
    return Encoding(
        text, "e", loss_delta + 0.125, 0.125, loss_delta, priors, (priors / 4).astype(np.float32), vectors
    )


def feed(bank: Bank, *facts: tuple[str, dict[str, Any]]) -> list[Decision]:
    rows = []
    for offset, (text, more) in enumerate(facts):
        more = dict(more)
        at = more.pop("at", offset)
        delta = more.pop("loss_delta", 4.0)
        fact = NewFact(
            "default", encoding(text, delta), START + timedelta(hours=at), START + timedelta(hours=offset),
            SourceOffset("facts", "t", 0, offset), **more,
        )  # fmt: skip
        for decision in bank.decide(fact, START):
            bank.apply(decision)
            rows.append(decision)
    return rows


def outcomes(*facts: tuple[str, dict[str, Any]]) -> list[str]:
    return [row.outcome for row in feed(Bank(), *facts)]


def test_the_newer_fact_supersedes_and_the_older_one_changes_nothing() -> None:
    bank = Bank()
    rows = feed(
        bank,
        ("Torben Betts was from Munich.", {"at": 5}),
        ("Torben Betts was from Melbourne.", {"at": 6}),
        ("Torben Betts was from Perth.", {"at": 1}),
    )
    assert [row.outcome for row in rows] == ["learned", "superseded", "outdated"]
    assert rows[1].nearest == rows[0].memory_id
    assert [m.text for m in bank.memories("default")] == ["Torben Betts was from Melbourne."]


def test_other_subjects_are_other_facts() -> None:
    same_form: tuple[tuple[str, dict[str, Any]], ...] = (
        ("The Airbus A340 is made in Toulouse.", {}),
        ("The Airbus A350 is made in Hamburg.", {}),
        ("Nick Laird was from Munich.", {}),
        ("Torben Betts was from Munich.", {}),
    )
    assert outcomes(*same_form) == ["learned"] * 4


def test_the_same_text_reinforces_and_the_same_fact_id_is_decided_once() -> None:
    one = "Torben Betts was from Munich."
    again: list[tuple[str, dict[str, Any]]] = [
        (one, {"fact_id": "a"}),
        (one, {"fact_id": "b"}),
        ("Another one, Zorg.", {"fact_id": "a"}),
    ]
    assert outcomes(*again) == ["learned", "reinforced", "duplicate"]


def test_a_namespace_that_has_forgotten_all_knows_what_it_has_decided() -> None:
    bank, fact = Bank(), ("Torben Betts was from Munich.", {"fact_id": "a"})
    [learned] = feed(bank, fact)
    for decision in bank.decide_forget(
        "default", str(learned.memory_id), SourceOffset("facts", "t", 1, 0), START
    ):
        bank.apply(decision)
    assert not len(bank) and bank.positions("default") == {"t/0": 0, "t/1": 0}
    assert [row.outcome for row in feed(bank, fact)] == ["duplicate"]


def test_the_gate_skips_the_known_but_not_a_contradiction_nor_what_says_otherwise() -> None:
    known: dict[str, Any] = {"loss_delta": 0.25}
    assert outcomes(("Torben Betts was from Munich.", dict(known))) == ["skipped"]
    assert outcomes(("Torben Betts was from Munich.", dict(known) | {"min_loss_delta": 0.0})) == ["learned"]
    corrected: tuple[tuple[str, dict[str, Any]], ...] = (
        ("Torben Betts was from Munich.", {}),
        ("Torben Betts was from Stamford.", dict(known)),
    )
    assert outcomes(*corrected) == ["learned", "superseded"]


def test_a_full_namespace_evicts_from_the_largest_category_the_least_important() -> None:
    bank = Bank(Settings(capacity=3))
    rows = feed(
        bank,
        ("Alpha.", {"category": "big", "loss_delta": 1.0}),
        ("Beta.", {"category": "big", "loss_delta": 8.0}),
        ("Gamma.", {"category": "small", "loss_delta": 1.0}),
        ("Delta.", {"category": "other", "loss_delta": 1.0}),
    )
    assert [row.outcome for row in rows] == ["learned"] * 4 + ["evicted"]
    assert rows[-1].text == "Alpha." and len(bank) == 3


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.floats(0.5, 9.0)), min_size=1, max_size=120))
def test_a_full_namespace_keeps_its_categories_in_balance(facts: list[tuple[str, float]]) -> None:
    bank, capacity = Bank(Settings(capacity=12)), 12
    for n, (category, delta) in enumerate(facts):
        fact = NewFact(
            "default", encoding(f"Subject{n:04}x.", delta), START, START, SourceOffset("facts", "t", 0, n),
            category=category, min_loss_delta=0.0,
        )  # fmt: skip
        for row in bank.decide(fact, START):
            bank.apply(row)
        assert len(bank) <= capacity
    fed = Counter(category for category, _ in facts)
    kept = Counter(memory.category for memory in bank.memories("default"))
    for category, count in fed.items():
        assert kept[category] >= min(count, capacity // len(fed)) / 2


def test_a_use_and_a_half_life_move_the_importance() -> None:
    bank = Bank()
    learned = feed(bank, ("Alpha.", {}))[0]
    before = bank.get("default", str(learned.memory_id))
    assert before is not None
    was = before.importance
    cause = SourceOffset("memory-hits", "h", 0, 0)
    for decision in bank.decide_use("default", before.memory_id, 1.0, "r", cause, START):
        bank.apply(decision)
    after = bank.get("default", before.memory_id)
    assert after is not None and after.uses == 1 and after.importance > was
    assert before.uses == 0 and before.importance == was  # what was asked for stays as it was
    # The same importance earned a half-life later counts for double.
    half_life = timedelta(days=bank.settings.half_life_days)
    late = NewFact(
        "default", encoding("Beta."), START, START + half_life, SourceOffset("facts", "t", 0, 9)
    )  # fmt: skip
    importance = bank.decide(late, START)[0].importance
    assert importance is not None and abs(importance - was - 1.0) < 1e-3


words = st.lists(
    st.sampled_from(["Acme", "Zorg", "is", "in", "Bonn", "Kiel", "Oslo"]), min_size=1, max_size=5
)
stream = st.lists(st.tuples(words, st.integers(0, 9), st.sampled_from([0.25, 4.0])), max_size=25)


class Thorough(Bank):
    """Looks at every memory that shares a word."""

    def _candidates(self, space: Any, words: list[str], first: int) -> list[int]:
        rarest = sorted((len(rows), form) for form in set(words) if (rows := space.index.holding(form)))
        held = [reversed(space.index.holding(form)) for _, form in rarest[: max(1, len(rarest) - 1)]]
        return list(dict.fromkeys(row for rows in held for row in rows))


@given(stream)
def test_what_is_not_looked_at_would_change_no_decision(facts: list[tuple[list[str], int, float]]) -> None:
    told = [(" ".join(w), {"at": at, "loss_delta": delta}) for w, at, delta in facts]
    made = [
        [(d.outcome, d.memory_id, d.nearest, d.similarity) for d in feed(b, *told)]
        for b in (Bank(), Thorough())
    ]
    assert made[0] == made[1]


@given(stream)
def test_folding_the_history_makes_the_same_memory(facts: list[tuple[list[str], int, float]]) -> None:
    bank = Bank(Settings(capacity=4))
    rows = feed(bank, *((" ".join(w), {"at": at, "loss_delta": delta}) for w, at, delta in facts))
    assert fold(rows, bank.settings).digest() == bank.digest()
    assert len(bank) <= 4
    for offset in range(len(facts)):
        assert bank.is_decided("default", SourceOffset("facts", "t", 0, offset))
    assert not bank.is_decided("default", SourceOffset("facts", "anew", 0, 0))


def test_a_memory_survives_the_changelog() -> None:
    bank = Bank()
    feed(bank, ("Torben Betts was from München.", {"category": "people"}))
    replica = Bank()
    for memory in bank.memories("default"):
        replica.put(memory_from_record(decode(MemoryRecord, encode(memory_to_record(memory)), 1 << 20)))
    assert replica.digest() == bank.digest()


def test_a_text_without_words_is_one_memory_however_often_it_comes() -> None:
    bank = Bank(Settings(capacity=2))
    rows = feed(
        bank,
        ("!?", {"category": "a"}),
        ("!?", {"category": "b"}),
        ("Alpha.", {"category": "a"}),
        ("Beta.", {"category": "a"}),
    )
    assert [row.outcome for row in rows] == ["learned", "reinforced", "learned", "learned", "evicted"]
    assert len(bank) == 2
