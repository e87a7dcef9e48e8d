"""What the measurements count, on cases that can be checked by hand."""

import pytest

from pipeline.bench.harness import Timing, in_turns, median_rate, median_speedup, percentile
from pipeline.bench.scores import contains, divided, f1, repeated_4grams, share


@pytest.mark.parametrize(
    "answer, right, wanted",
    [
        ("The Grey Parrot!", "a grey parrot", 1.0),
        ("a parrot", "grey parrot", 2 / 3),
        ("boat", "parrot", 0.0),
        ("red red parrot", "red parrot", 4 / 5),
        ("", "parrot", 0.0),
        ("the", "a", 1.0),
    ],
)
def test_f1_is_the_overlap_of_words(answer: str, right: str, wanted: float) -> None:
    assert f1(answer, right) == pytest.approx(wanted)


def test_repeated_4grams_are_counted_within_a_text() -> None:
    assert repeated_4grams(["a b c d e"]) == 0
    assert repeated_4grams(["a b c d a b c d"]) == pytest.approx(1 / 5)  # of five runs "a b c d" stood before
    assert repeated_4grams(["A b c d", "a b c d"]) == 0
    assert repeated_4grams(["too short"]) is None


def test_shares_of_nothing_are_none() -> None:
    assert share([]) is None and share([True, False]) == 0.5
    assert (
        divided(0.5, 0.0) is None and divided(None, 1.0) is None and divided(0.4, 0.5) == pytest.approx(0.8)
    )
    assert percentile([3.0, 1.0, 2.0], 0.99) == 3.0
    assert contains("born in TROMSO, they say", "Tromso") and not contains("born in Troms", "Tromso")


def test_calls_run_in_turns() -> None:
    order: list[str] = []
    timings = in_turns(
        2,
        lambda turn: order.append(f"a{turn}"),
        lambda turn: order.append(f"b{turn}"),
        after=lambda: order.append("after"),
    )
    assert order == ["a0", "b0", "after", "a1", "b1", "after"]
    assert [len(own) for own in timings] == [2, 2]


def test_the_speedup_is_the_median_of_the_rounds_ratios() -> None:
    ours = [Timing(1.0, 2.0), Timing(4.0, 1.0), Timing(1.0, 1.0)]
    theirs = [Timing(3.0, 2.0), Timing(4.0, 5.0), Timing(2.0, 3.0)]
    assert median_speedup(ours, theirs) == Timing(2.0, 3.0)
    assert median_rate(8, ours) == 8.0
