"""The inverted index against plain sets, while memories come and go and rows are renumbered."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.memory import table
from tests.memory.samples import memory, namespace_of, numbers_of


def text_of(number: int, kinds: int) -> str:
    return f"all of{number % kinds}"


@given(st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=60))
def test_postings_hold_what_was_added_and_not_removed(steps: list[tuple[int, bool]]) -> None:
    space, held = namespace_of([]), dict[int, None]()
    for number, adding in steps:
        if adding and number not in held:
            space.put(memory(number, text_of(number, 3)))
            held[number] = None
        elif not adding and number in held:
            space.remove(memory(number, text_of(number, 3)))
            del held[number]
    assert numbers_of(space, space.postings.raw("all")) == list(held)
    expected = [number for number in held if number % 3 == 1]
    assert numbers_of(space, space.postings.rows_with_all(["all", "of1"], 100)) == expected[::-1]
    assert space.postings.count("of1") == len(expected) and space.postings.count("none") == 0


@pytest.mark.parametrize("compact_from", [20, 10_000])
@pytest.mark.parametrize("every", [10, 370])
def test_long_postings_stay_exact_while_memories_leave(
    every: int, compact_from: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Checked rarely and often, since a look at the rows cleans them; with the rows renumbered meanwhile and without."""
    monkeypatch.setattr(table, "_MIN_REMOVED", compact_from)
    held = dict.fromkeys(range(3000))
    space = namespace_of(memory(number, text_of(number, 2)) for number in held)
    postings = space.postings
    for number in Random(5).sample(range(3000), 2990):
        space.remove(memory(number, text_of(number, 2)))
        del held[number]
        if len(held) % every:
            continue
        odd = [n for n in held if n % 2]
        assert (postings.count("all"), postings.count("of1")) == (len(held), len(odd))
        assert set(odd) <= set(numbers_of(space, postings.raw("of1")))
        assert numbers_of(space, postings.newest("of1")) == odd[::-1]
        assert numbers_of(space, postings.rows("of1").tolist()) == odd
        assert numbers_of(space, postings.rows_with_all(["all", "of1"], 3000)) == odd[::-1]


def test_rows_with_all_terms_are_sought_among_the_newest_with_the_rarest() -> None:
    space = namespace_of(memory(number, text_of(number, 2)) for number in range(20))
    assert numbers_of(space, space.postings.rows_with_all(["all", "of1"], 3)) == [19, 17, 15]
    assert not len(space.postings.rows_with_all(["all", "none"], 3))
