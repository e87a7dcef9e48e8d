"""Decisions by key: the newest value of a key holds, in whatever order and words it arrives."""

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import Settings
from pipeline.memory.bank import Bank
from tests.decide.samples import START, feed, forget, restore, tell

HOME: dict[str, Any] = {"key": "ola:home"}
SPEAKS: dict[str, Any] = {"key": "ola:speaks", "cardinality": "many"}


def texts(bank: Bank) -> list[str]:
    return [memory.text for memory in bank.memories("default")]


def test_a_newer_value_replaces_the_older_and_a_late_one_is_history_only() -> None:
    bank = Bank()
    decisions = feed(
        bank,
        ("Ola lives in Temmin.", HOME | {"at": 1}),
        ("Off to Brask for good, says Ola.", HOME | {"at": 5}),
        ("Ola has a flat in Ostrel.", HOME | {"at": 3}),
        ("Off to Brask for good, says Ola.", HOME | {"at": 4}),
    )
    assert [(d.outcome, d.rule) for d in decisions] == [
        ("learned", "new"), ("superseded", "key"), ("outdated", "key"), ("reinforced", "same_text"),
    ]  # fmt: skip
    assert decisions[1].nearest == decisions[0].memory_id
    assert texts(bank) == ["Off to Brask for good, says Ola."]
    [old] = bank.superseded("default")
    assert (old.memory.text, old.by, old.rule) == ("Ola lives in Temmin.", decisions[1].memory_id, "key")


def test_of_two_values_at_the_same_time_the_later_record_holds() -> None:
    bank = Bank()
    feed(bank, ("Ola lives in Temmin.", HOME | {"at": 1}), ("Ola lives in Brask.", HOME | {"at": 1}))
    assert texts(bank) == ["Ola lives in Brask."]


def test_many_values_stand_side_by_side_and_equal_ones_reinforce() -> None:
    bank = Bank()
    said = ["Ola speaks Ulish.", "Ola speaks Tarric.", "Ola speaks Ulish."]
    decisions = feed(bank, *((text, SPEAKS) for text in said))
    assert [(d.outcome, d.rule) for d in decisions] == [
        ("learned", "new"), ("learned", "many"), ("reinforced", "same_text"),
    ]  # fmt: skip
    assert texts(bank) == said[:2]


def test_a_key_that_turns_single_keeps_the_newest_value_only() -> None:
    bank = Bank()
    feed(bank, ("Ola speaks Ulish.", SPEAKS), ("Ola speaks Tarric.", SPEAKS))
    feed(bank, ("Ola speaks Ulish.", {"key": "ola:speaks", "at": 9}))
    assert texts(bank) == ["Ola speaks Ulish."]


def test_without_a_key_no_keyed_memory_is_replaced_and_its_text_reinforces_it() -> None:
    bank = Bank()
    decisions = feed(
        bank,
        ("Torben Betts was from Munich.", {"key": "betts"}),
        ("Torben Betts was from Perth.", {}),
        ("torben betts was from MUNICH!", {}),
    )
    assert [d.outcome for d in decisions] == ["learned", "learned", "reinforced"]


def test_what_is_said_without_a_key_does_not_date_what_a_key_states() -> None:
    told: list[tuple[str, dict[str, Any]]] = [
        ("Ola lives in Temmin.", HOME | {"at": 1, "metadata": '{"id":17}', "valid_until": START}),
        ("Ola lives in Temmin.", {"at": 9}),
        ("Off to Brask for good, says Ola.", HOME | {"at": 5}),
    ]
    bank = Bank()
    feed(bank, *told[:2])
    [memory] = bank.memories("default")
    assert (memory.metadata, memory.valid_until, memory.reinforced) == ('{"id":17}', START, 1)
    assert feed(bank, told[2])[0].outcome == "superseded"


def test_two_keys_with_one_text_have_a_memory_each() -> None:
    bank = Bank()
    lamp = "The lamp costs 40 euros."
    feed(bank, (lamp, {"key": "a"}), (lamp, {"key": "b"}), ("The lamp costs 45 euros.", {"key": "a"}))
    assert texts(bank) == [lamp, "The lamp costs 45 euros."]


def test_a_memory_without_a_key_gets_the_key_that_states_its_text() -> None:
    bank = Bank()
    decisions = feed(bank, ("Ola lives in Temmin.", {}), ("Ola lives in Temmin.", HOME), ("Ola left.", HOME))
    assert [d.rule for d in decisions] == ["new", "key_taken_up", "key"]
    assert texts(bank) == ["Ola left."]
    assert [one.memory.key for one in bank.superseded("default")] == ["ola:home"], "one text, kept once"


def test_a_forgotten_key_stays_forgotten_for_what_was_observed_before() -> None:
    bank = Bank()
    tell(bank, 0, "Ola lives in Temmin.", at=1, **HOME)
    [gone] = forget(bank, 1, key="ola:home", at=5)
    late, equal, later = (
        tell(bank, 2 + n, f"Ola lives in Brask {when}.", at=when, **HOME)[0]
        for n, when in enumerate((4, 5, 6))
    )
    assert (gone.outcome, gone.rule, late.outcome, late.rule) == (
        "forgotten",
        "forget_key",
        "outdated",
        "key_over",
    )
    assert [equal.outcome, later.outcome] == ["learned", "superseded"]


def test_a_key_can_be_forgotten_before_it_is_stated() -> None:
    bank = Bank()
    forget(bank, 3, key="ola:speaks")
    [late] = tell(bank, 4, "Ola speaks Ulish.", at=2, **SPEAKS)
    [new] = tell(bank, 5, "Ola speaks Tarric.", at=4, **SPEAKS)
    assert (late.outcome, new.outcome) == ("outdated", "learned")


def test_a_late_request_to_forget_a_key_leaves_what_is_newer() -> None:
    bank = Bank()
    feed(bank, ("Ola lives in Temmin.", HOME | {"at": 5}))
    feed(bank, ("Ola speaks Ulish.", SPEAKS | {"at": 1}), ("Ola speaks Tarric.", SPEAKS | {"at": 5}))
    forget(bank, 6, key="ola:home", at=3)
    forget(bank, 7, key="ola:speaks", at=3)
    assert texts(bank) == ["Ola lives in Temmin.", "Ola speaks Tarric."]


@given(st.permutations([("Ola speaks Ulish.", 9), (None, 5), ("Ola speaks Tarric.", 4)]))
def test_facts_and_a_request_to_forget_lead_to_one_memory_in_any_order(
    said: list[tuple[str | None, int]],
) -> None:
    bank = Bank()
    for offset, (text, when) in enumerate(said, 10):
        if text is None:
            forget(bank, offset, key="ola:speaks", at=when)
        else:
            tell(bank, offset, text, at=when, **SPEAKS)
    assert texts(bank) == ["Ola speaks Ulish."]


@pytest.mark.parametrize("gone", ["skipped", "evicted", "forgotten"])
def test_a_late_value_stays_out_though_no_memory_of_the_key_tells(gone: str) -> None:
    bank = Bank(Settings(capacity=1))
    [first, *_] = tell(
        bank, 0, "Ola lives in Temmin.", at=5, loss_delta=0.1 if gone == "skipped" else 4.0, **HOME
    )
    if gone == "evicted":
        tell(bank, 1, "The river is long.", loss_delta=9.0)
    elif gone == "forgotten":
        forget(bank, 1, first.memory_id)
    else:
        assert first.outcome == "skipped"
    [late] = tell(bank, 2, "Ola lives in Brask.", at=3, **HOME)
    assert (late.outcome, late.rule) == ("outdated", "key_over")


def test_a_restored_value_takes_the_place_of_the_newer_one() -> None:
    bank = Bank()
    first, second = feed(bank, ("Ola lives in Temmin.", HOME), ("Ola lives in Brask.", HOME))
    [restored] = restore(bank, 7, str(first.memory_id))
    assert (restored.outcome, restored.nearest) == ("restored", second.memory_id)
    assert texts(bank) == ["Ola lives in Temmin."]
    [late] = tell(bank, 8, "Ola lives in Ostrel.", at=5, **HOME)
    assert late.outcome == "outdated", "the restored one was stated again at hour 7"


values = st.lists(
    st.tuples(st.integers(0, 20), st.sampled_from("abcde")), min_size=1, max_size=12, unique_by=lambda v: v[0]
)


@given(values, st.randoms(use_true_random=False))
def test_any_order_of_arrival_leads_to_the_newest_value(
    stated: list[tuple[int, str]], dice: random.Random
) -> None:
    arriving = stated.copy()
    dice.shuffle(arriving)
    bank = Bank()
    for offset, (when, value) in enumerate(arriving):
        tell(bank, offset, f"The value is {value}.", at=when, key="k")
    assert texts(bank) == [f"The value is {max(stated)[1]}."]
