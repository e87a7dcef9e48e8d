"""Likeness of spelling: which pair of words counts, and by how much."""

import numpy as np
import pytest

from pipeline.text.spelling import Alike, most_alike
from pipeline.text.words import terms_of
from tests.retrieve.samples import measured


def alike(prompt: str, fact: str) -> Alike:
    found = most_alike(terms_of(prompt), measured(prompt)[0], terms_of(fact), measured(fact)[0])
    assert np.isfinite(found).all()
    return found


def test_a_near_name_is_alike_by_the_letters_that_need_no_edit() -> None:
    found = alike("Who leads Lindqvist Optics", "Vera leads Lindqvell Optics")
    assert found.share == pytest.approx(6 / 9)  # of lindqvist, three letters are others
    assert found.nats == pytest.approx(12 * 6 / 9)
    assert found.letters == 9 and found.word == 2


def test_exchanged_digits_are_one_edit() -> None:
    assert alike("Who has INC-4471", "Oskar has INC-4741").share == 0.75


def test_a_rare_word_counts_more_than_a_common_one_that_is_more_alike() -> None:
    found = alike("Where are the boards of Kessing", "The board of Kessig is here")
    assert found.letters == len("kessing")


@pytest.mark.parametrize("fact", ["Vera leads Lindqvist Optics", "", "Lindqvist Lindqvist"])
def test_nothing_is_alike_where_one_side_has_no_word_of_its_own(fact: str) -> None:
    assert alike("Lindqvist", fact) == Alike()


def test_words_without_a_common_letter_are_not_alike() -> None:
    found = alike("Abba", "Kiosk")
    assert found.share == 0.0 and found.nats == 0.0
