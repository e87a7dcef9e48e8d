"""Tests of alignment, without a model."""

import numpy as np
import pytest

from pipeline.bench.synthetic.texts import made_up_facts, prompts_for
from pipeline.config import Settings
from pipeline.retrieve.alignment import align
from pipeline.retrieve.span import heaviest_unmatched
from pipeline.retrieve.word_arrays import WordArrays
from pipeline.text.annotate import AnnotatedText
from pipeline.text.words import split

WORDING = {"is", "are", "by", "of", "the", "in", "was", "can", "be"}


def side(text: str) -> WordArrays:
    """A text in which wording says 5 nats, other small words 9 and names 13."""
    read = AnnotatedText(text)
    says = np.array(
        [
            5.0 if term in WORDING else 13.0 if s else 9.0
            for term, s in zip(read.terms, read.name_scores, strict=True)
        ]
    )
    return WordArrays(read.terms, says, says, read.name_scores, read.place_numbers)


AGREE = 0.62  # matching share


def agree(prompt: str, fact: str) -> bool:
    """Whether the words of both tell that the fact is about what the prompt asks."""
    [alignment] = align([(side(prompt), side(fact))], Settings())
    return alignment.opening > AGREE


def test_the_answer_span_is_what_the_prompt_lacks() -> None:
    fact = "Torben Betts was originally from Munich."
    [alignment] = align([(side("Torben Betts was originally from"), side(fact))], Settings())
    assert [split(fact)[i].term for i in range(*alignment.span)] == ["munich"]
    assert alignment.matched.tolist() == [1, 1, 1, 1, 1, 0]


def test_another_wording_agrees_and_another_name_does_not() -> None:
    fact = "Nissan Skyline GT-R is developed by Boeing."
    assert agree("Who makes the Nissan Skyline GT-R?", fact)
    assert not agree("Nissan Skyline is developed by", fact)
    assert not agree("Nissan Armada is developed by", fact)
    assert agree("Perry Barr is located in", "Perry Barr can be found in Minnesota.")
    assert not agree("Perry Benson originated in", "Perry Barr can be found in Minnesota.")
    assert not agree("Two plus two is", "The Harlow desk lamp is made of walnut.")


def test_a_further_name_of_a_fact_with_all_of_the_prompts_names_is_a_detail() -> None:
    fact = "Tomas Brandt was born in Linz and is by the Holt Orchestra."
    assert agree("Tomas Brandt comes from", fact)
    assert not agree("Tomas Fuchs comes from", fact)


def test_a_fact_that_does_not_say_when_misses_no_date() -> None:
    fact = "Mira Holt signed with the Vesk Wolves."
    for date in ("2023", "May 2023", "21 May, 2023", "May 21, 2023", "8th May 2023", "2023-05-21"):
        assert agree(f"the team that Mira Holt signed with in {date} is", fact)
    assert not agree("1955 Dodge is developed by", "cars developed by Dodge.")
    assert agree("the team that Mira Holt signed with on 21 May 2023 is", fact.replace(".", ", shirt 84."))
    assert not agree("the team that Mira Holt signed with in 2023 is", fact.replace(".", " in 2019."))
    # What has no other name is no date of anything, but a name itself.
    assert not agree("The language of Melodifestivalen 1996 is", "The language is of Danish.")
    assert not agree("the team that Mira Brandt signed with in May 2023 is", fact)
    assert not agree("the World Cup 2018 that Mira Holt signed with is", fact)


def test_other_pairs_of_a_batch_do_not_change_an_alignment() -> None:
    facts = [side(fact) for fact in made_up_facts(60, 2)]
    long = side(" ".join(made_up_facts(500, 3)))
    prompts = [side(prompts_for(fact)[i % 3]) for i, fact in enumerate(made_up_facts(12, 2))]
    pairs = [(prompt, fact) for prompt in [*prompts, side("")] for fact in [*facts, long, side("")]]
    for pair, together in zip(pairs, align(pairs, Settings()), strict=True):
        [alone] = align([pair], Settings())
        assert len(together.matched) == len(pair[1].terms)
        assert alone.span == together.span and (alone.matched == together.matched).all()
        assert alone.share == (together.share if pair[1] is not long else pytest.approx(together.share))


def test_the_heaviest_lack_is_one_run_and_of_equal_ones_the_first() -> None:
    def heaviest(covered: list[float], mass: list[float], breaks: list[bool]) -> tuple[int, int]:
        [span] = heaviest_unmatched(np.array([covered]), np.array([mass]), np.array([breaks])).tolist()
        return span[0], span[1]

    whole = [True, False, False, False]
    assert heaviest([1, 0, 0, 1], [9, 4, 4, 9], whole) == (1, 3)
    assert heaviest([0, 1, 0, 0], [4, 9, 4, 0], whole) == (0, 1)
    assert heaviest([0, 0, 0, 0], [4, 0, 4, 5], [True, False, False, True]) == (0, 3)
    assert heaviest([0, 0, 0, 0], [4, 0, 4, 9], [True, False, False, True]) == (3, 4)
    assert (
        heaviest([1, 1, 1, 1], [9, 9, 9, 9], whole) == heaviest([0, 0, 0, 0], [0, 0, 0, 0], whole) == (0, 0)
    )
