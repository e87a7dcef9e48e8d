"""Requests: what is restored, and what a namespace that is emptied keeps."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pipeline.config import Settings
from pipeline.decide.decide import decide_fact
from pipeline.memory.bank import Bank
from pipeline.memory.events import NewFact, SourceOffset
from tests.decide.samples import START, encoding, feed, forget, restore, tell


def texts(bank: Bank) -> list[str]:
    return [memory.text for memory in bank.memories("default")]


def test_a_superseded_memory_comes_back_beside_the_one_that_replaced_it() -> None:
    bank = Bank()
    old, new = feed(
        bank,
        ("Torben Betts was from Munich.", {"category": "people"}),
        ("Torben Betts was from Perth.", {}),
    )
    before = next(bank.superseded("default")).memory
    [restored] = restore(bank, 7, str(old.memory_id))
    assert (restored.outcome, restored.rule, restored.text) == ("restored", "restore", old.text)
    back, other = bank.get("default", str(old.memory_id)), bank.get("default", str(new.memory_id))
    assert back and other and back.observed_at > other.observed_at, "it is the newest, and speaks"
    assert back == before.changed(before.importance, observed_at=back.observed_at)
    assert not list(bank.superseded("default"))


def test_what_is_not_superseded_cannot_be_restored() -> None:
    bank = Bank(Settings(remembered_superseded=1))
    facts: list[tuple[str, dict[str, Any]]] = [
        (f"Torben Betts was from {place}.", {}) for place in ("Munich", "Perth", "Oslo")
    ]
    first, second, third = feed(bank, *facts)
    forget(bank, 3, third.memory_id)
    assert [restore(bank, 4 + n, str(d.memory_id))[0].outcome for n, d in enumerate((third, first, second))] == [
        "unknown", "unknown", "restored",  # of the two superseded ones one is kept
    ]  # fmt: skip


def test_a_superseded_memory_is_forgotten_with_its_id_its_key_or_its_namespace() -> None:
    for how in ("id", "key", "all"):
        bank = Bank()
        old, _ = feed(bank, ("Ola lives in Temmin.", {"key": "k"}), ("Ola lives in Brask.", {"key": "k"}))
        forget(bank, 2, old.memory_id if how == "id" else None, "k" if how == "key" else None)
        assert restore(bank, 3, str(old.memory_id))[0].outcome == "unknown"


def test_a_full_namespace_evicts_one_for_the_one_that_comes_back() -> None:
    bank = Bank(Settings(capacity=2))
    old, *_ = feed(
        bank, ("Torben Betts was from Munich.", {}), ("Torben Betts was from Perth.", {}), ("Alpha.", {})
    )
    assert [d.outcome for d in restore(bank, 5, str(old.memory_id))] == ["restored", "evicted"]
    assert len(bank) == 2


def test_forget_all_removes_everything_in_one_decision_and_in_order() -> None:
    bank = Bank()
    feed(bank, *((f"Fact{n} is {n}.", {"at": 9 - n}) for n in range(9)))
    [partial] = forget(bank, 10, at=4)
    assert texts(bank) == [f"Fact{n} is {n}." for n in range(5)]
    [everything] = forget(bank, 11)
    assert (everything.outcome, everything.rule, everything.memory_id) == ("forgotten", "forget_all", None)
    assert partial.observed_at is not None and not len(bank)
    [again] = tell(bank, 12, "Fact1 is 1.", at=1)
    assert again.outcome == "learned"


def test_a_fact_from_far_in_the_future_is_taken_as_of_its_timestamp() -> None:
    bank = Bank()
    day = 24
    [wild] = tell(bank, 0, "Torben Betts was from Munich.", at=90 * day)
    [soon] = tell(bank, 1, "Alpha is near.", at=day)
    [newer] = tell(bank, 2, "Torben Betts was from Perth.")
    assert wild.observed_at == wild.published_at and wild.dated and wild.dated > soon.observed_at  # type: ignore[operator]
    assert soon.dated is None and newer.outcome == "superseded"


def test_a_key_is_forgotten_until_the_timestamp_of_a_request_from_far_in_the_future() -> None:
    bank, day = Bank(), 24
    [wild] = forget(bank, 3, key="k", at=90 * day)
    assert wild.observed_at == wild.published_at and wild.dated == START + timedelta(days=90)
    [before, after] = (tell(bank, offset, f"Alpha {offset}.", at=offset - 2, key="k")[0] for offset in (4, 6))
    assert (before.outcome, after.outcome) == ("outdated", "learned")


def test_times_at_the_ends_of_the_calendar_are_decided() -> None:
    for published_at in (datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)):
        for observed_at in (datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)):
            cause = SourceOffset("facts", "t", 0, 0)
            fact = NewFact("default", encoding("Alpha."), observed_at, published_at, cause, key="k")
            bank = Bank()
            for decision in decide_fact(bank, fact, START):
                bank.apply(decision)
            [memory] = bank.memories("default")
            assert memory.observed_at == min(observed_at, published_at)


def test_a_newer_statement_brings_its_own_metadata_and_end() -> None:
    bank, text = Bank(), "Ola is on holiday."
    until = [d.observed_at for d in feed(bank, *((f"Day{n}.", {}) for n in range(3)))]
    for offset, when, end in ((3, 10, 1), (4, 11, 2), (5, 1, 0)):
        tell(bank, offset, text, at=when, metadata=f'{{"n":{end}}}', valid_until=until[end])
    memory = next(memory for memory in bank.memories("default") if memory.text == text)
    assert (memory.metadata, memory.valid_until, memory.reinforced) == ('{"n":2}', until[2], 2)


def test_readers_lose_what_is_valid_no_longer_by_the_clock_that_they_pass() -> None:
    bank, days = Bank(), [START + timedelta(days=n) for n in range(3)]
    tell(bank, 0, "Alpha.", valid_until=days[1])
    tell(bank, 1, "Beta.", valid_until=days[2])
    tell(bank, 2, "Gamma.")
    left = []
    for day in days:
        bank.expire(["default"], lambda: day)  # noqa: B023
        left.append(texts(bank))
    assert left == [["Alpha.", "Beta.", "Gamma."], ["Beta.", "Gamma."], ["Gamma."]]


def test_the_clock_is_asked_only_where_a_memory_has_an_end() -> None:
    bank = Bank()
    tell(bank, 0, "Gamma.")
    bank.expire(["default", "unknown"], lambda: pytest.fail("asked"))
