"""Likeness of spelling: which pair of words counts, and by how much."""

import numpy as np
import pytest

from pipeline.retrieve.spelling import SPELLING, spelling_evidence
from pipeline.text.words import terms_of
from tests.retrieve.samples import measured, prompt_encoding


def evidence(prompt: str, fact: str) -> dict[str, float]:
    found = spelling_evidence(prompt_encoding(prompt), terms_of(fact), measured(fact)[0])
    assert np.isfinite(found).all()
    return dict(zip(SPELLING, found, strict=True))


def test_a_near_name_is_alike_by_the_letters_that_need_no_edit() -> None:
    found = evidence("Who leads Lindqvist Optics", "Vera leads Lindqvell Optics")
    assert found["alike_share"] == pytest.approx(6 / 9)  # of lindqvist, three letters are others
    assert found["alike_nats"] == pytest.approx(12 * 6 / 9)
    assert found["alike_letters"] == 9 and found["alike_name"] == 1.0


def test_exchanged_digits_are_one_edit() -> None:
    assert evidence("Who has INC-4471", "Oskar has INC-4741")["alike_share"] == 0.75


def test_a_rare_word_counts_more_than_a_common_one_that_is_more_alike() -> None:
    found = evidence("Where are the boards of Kessing", "The board of Kessig is here")
    assert found["alike_letters"] == len("kessing")


@pytest.mark.parametrize("fact", ["Vera leads Lindqvist Optics", "", "Lindqvist Lindqvist"])
def test_nothing_is_alike_where_one_side_has_no_word_of_its_own(fact: str) -> None:
    assert set(evidence("Lindqvist", fact).values()) == {0.0}


def test_words_without_a_common_letter_are_not_alike() -> None:
    found = evidence("Abba", "Kiosk")
    assert found["alike_share"] == 0.0 and found["alike_nats"] == 0.0
