"""Tests of the gate: when facts are read, how many together, and which of them a newer one replaces."""

from dataclasses import FrozenInstanceError

import numpy as np
import pytest

from pipeline.memory.bank import memory_id
from pipeline.retrieve.evidence import WORDS
from pipeline.retrieve.gate import MOST_READ, settled
from pipeline.retrieve.hit import Hit
from tests.retrieve.samples import memory


def hit(text: str, probability: float, day: int = 0, score: float = 5.0) -> Hit:
    """A hit of a memory that was observed on this day."""
    return Hit(memory(text, day=day), score, np.zeros(len(WORDS)), text, probability)


def never(new: Hit, old: Hit) -> bool:
    return False


def by_first_word(new: Hit, old: Hit) -> bool:
    return new.memory.text.split()[0] == old.memory.text.split()[0]


def gates(hits: list[Hit]) -> dict[str, float]:
    return {one.memory.text: one.gate for one in hits}


def test_gates_open_from_the_least_probability_that_any_fact_answers() -> None:
    hits = [hit("Ann lives in Bonn", 0.6), hit("Bo lives in Kiel", 0.1)]
    assert gates(settled(hits, 0.49, 0.5, 0.5, never)) == {"Ann lives in Bonn": 0.0, "Bo lives in Kiel": 0.0}
    assert gates(settled(hits, 0.5, 0.5, 0.5, never)) == {"Ann lives in Bonn": 0.5, "Bo lives in Kiel": 0.0}
    assert gates(settled(hits, 1.0 + 1e-6, 0.5, 0.5, never))["Ann lives in Bonn"] == 1.0
    assert settled([], 1.0, 0.5, 0.5, never) == []


def test_the_likeliest_come_first_and_ties_go_to_the_better_score() -> None:
    hits = [hit("c", 0.2), hit("b", 0.2, score=6.0), hit("d", 0.4, score=1.0), hit("a", 0.2, score=5.5)]
    for answered in (0.0, 1.0):
        ranked = settled(hits, answered, 0.5, 0.9, never)
        assert [one.memory.text for one in ranked] == ["d", "b", "a", "c"]
    equal = [hit("a", 0.2), hit("b", 0.2)]
    assert settled(equal, 1.0, 0.5, 0.5, never) == settled(equal[::-1], 1.0, 0.5, 0.5, never)


def test_facts_that_are_nearly_as_likely_are_read_together() -> None:
    hits = [hit(name, p) for name, p in (("a", 0.4), ("b", 0.2), ("c", 0.19), ("d", 0.0))]
    assert gates(settled(hits, 0.8, 0.5, 0.5, never)) == {"a": 0.8, "b": 0.8, "c": 0.0, "d": 0.0}
    assert gates(settled(hits, 0.8, 0.5, 1.0, never)) == {"a": 0.8, "b": 0.0, "c": 0.0, "d": 0.0}
    many = [hit(str(n), 0.1) for n in range(9)]
    assert sum(one.gate > 0 for one in settled(many, 0.9, 0.5, 0.5, never)) == MOST_READ


def test_an_older_fact_is_doubted_by_the_newest_that_replaces_it() -> None:
    hits = [hit("Ann bonn", 0.4, day=1), hit("Ann kiel", 0.3, day=2), hit("Ann oslo", 0.3, day=3)]
    for some in (hits, hits[::-1]):
        found = settled(some, 1.0, 0.5, 0.5, by_first_word)
        assert gates(found) == {"Ann bonn": 0.0, "Ann kiel": 0.0, "Ann oslo": 1.0}
        newest = memory_id("n", "Ann oslo")
        assert {one.memory.text: one.doubted_by for one in found} == {
            "Ann bonn": newest, "Ann kiel": newest, "Ann oslo": None,
        }  # fmt: skip


def test_facts_of_the_same_time_or_about_something_else_doubt_none() -> None:
    hits = [hit("Ann bonn", 0.4, day=1), hit("Ann kiel", 0.4, day=1), hit("Bo oslo", 0.4, day=3)]
    found = settled(hits, 1.0, 0.5, 0.5, by_first_word)
    assert all(one.gate == 1.0 and one.doubted_by is None for one in found)


def test_a_newer_fact_replaces_a_much_likelier_older_one_and_is_read_instead() -> None:
    hits = [hit("Ann bonn", 0.7, day=1), hit("Ann kiel", 0.1, day=2), hit("Bo oslo", 0.1, day=3)]
    found = settled(hits, 0.9, 0.5, 0.5, by_first_word)
    assert [(one.memory.text, one.gate) for one in found] == [
        ("Ann kiel", 0.9),
        ("Ann bonn", 0),
        ("Bo oslo", 0),
    ]
    assert found[1].doubted_by == memory_id("n", "Ann kiel") and found[0].doubted_by is None


def test_a_fact_that_hardly_answers_doubts_none() -> None:
    hits = [hit("Ann bonn", 0.9, day=1), hit("Ann kiel", 0.05, day=2)]
    found = settled(hits, 1.0, 0.5, 0.5, by_first_word)
    assert gates(found) == {"Ann bonn": 1.0, "Ann kiel": 0.0} and found[0].doubted_by is None
    shut = settled(hits, 0.1, 0.5, 0.1, by_first_word)
    assert not any(one.gate or one.doubted_by for one in shut)


def test_a_fact_that_doubts_and_is_doubted_is_not_read() -> None:
    hits = [hit("bonn", 0.4, day=1), hit("kiel", 0.3, day=2), hit("oslo", 0.3, day=3)]
    pairs = {("kiel", "bonn"), ("oslo", "kiel")}
    found = settled(hits, 1.0, 0.5, 0.5, lambda new, old: (new.memory.text, old.memory.text) in pairs)
    assert gates(found) == {"oslo": 1.0, "bonn": 0.0, "kiel": 0.0}


def test_a_hit_is_immutable() -> None:
    one = hit("Ann lives in bonn", 0.9)
    (opened,) = settled([one], 0.9, 0.5, 0.5, never)
    assert opened.gate == 0.9 and one.gate == 0.0, "the hit itself stays as it was"
    with pytest.raises(FrozenInstanceError):
        one.gate = 0.0  # type: ignore[misc]
