"""Deduplication: which facts are about the same subject and relation, and that none is overlooked."""

from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.decide import dedup
from pipeline.decide.dedup import required_prefix, same_relation
from pipeline.memory.bank import Bank
from pipeline.memory.postings import Postings
from pipeline.text.annotate import AnnotatedText
from pipeline.text.names import name_scores
from pipeline.text.words import split, terms_of
from tests.decide.samples import feed

WORDING = {"is", "are", "by", "of", "the", "in", "was", "can", "be"}


def similarity(a: str, b: str) -> float:
    """Wording has a unigram_nll of 5 nats, other common words 9 and names 13."""
    one, other = (
        AnnotatedText(text, nlls(text, name_scores(text, words, [0.5] * len(words))))
        for text in (a, b)
        for words in [split(text)]
    )
    return same_relation(one, other.terms, other.unigram_nll)


def nlls(text: str, scores: list[float]) -> NDArray[np.float32]:
    terms = terms_of(text)
    return np.array(
        [5 if term in WORDING else 13 if score else 9 for term, score in zip(terms, scores, strict=True)],
        np.float32,
    )


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("Torben Betts was originally from Munich.", "Torben Betts was originally from Melbourne."),
        ("Acme Motors sells its shares at 12.50.", "Acme Motors sells its shares at 12.75."),
    ],
)
def test_facts_that_differ_in_their_answer_have_one_relation(a: str, b: str) -> None:
    assert 0.5 < similarity(a, b) < 1 and 0.5 < similarity(b, a) < 1


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("The language of Lapland Odyssey was Russian.", "The language of Soir Trois was Russian."),
        ("Winchester is the capital of Hawaii.", "London is the capital of Hawaii."),
        ("The capital of Hawaii is Bonn.", "The capital of Kansas is Bonn."),
        ("Acme Motors, the maker of the Honda Jazz.", "Acme Motors, the maker of the Honda Civic."),
    ],
)
def test_facts_that_differ_elsewhere_have_different_relations(a: str, b: str) -> None:
    assert similarity(a, b) == similarity(b, a) == 0


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        ("Torben Betts speaks Dutch.", "Torben Betts speaks Frisian."),
        ("Torben Betts has a brown dog.", "Torben Betts has a white cat."),
        ("The Brindle kettle depends on Vorren.", "The Brindle kettle depends on Quarrydb, too."),
        ("HG2047; Brindle kettle; matt black; price: 34", "HG2047; Brindle kettle; matt black; capacity: 2"),
    ],
)
def test_a_second_value_stands_beside_the_first(older: str, newer: str) -> None:
    [_, decision] = feed(Bank(), (older, {}), (newer, {}))
    assert (decision.outcome, decision.rule) == ("learned", "many_valued")
    assert decision.similarity is not None and decision.nearest is not None


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        ("The Harlow lamp is made of walnut.", "The Harlow lamp is made of oak."),
        ("The Harlow lamp has a weight of 3.", "The Harlow lamp has a weight of 4."),
    ],
)
def test_a_value_of_which_there_is_one_is_replaced(older: str, newer: str) -> None:
    [_, decision] = feed(Bank(), (older, {}), (newer, {}))
    assert (decision.outcome, decision.rule) == ("superseded", "same_relation")


def test_a_match_begins_with_the_words_up_to_the_first_that_counts() -> None:
    assert required_prefix(np.array([2, 12, 12], np.float32)) == 2
    assert required_prefix(np.array([12, 2], np.float32)) == 1
    assert required_prefix(np.zeros(0, np.float32)) == 0


words = st.lists(
    st.sampled_from(["Acme", "Zorg", "is", "in", "Bonn", "Kiel", "Oslo"]), min_size=1, max_size=5
)
facts_in_order = st.lists(st.tuples(words, st.integers(0, 9), st.sampled_from([0.25, 4.0])), max_size=25)


def all_that_share_a_word(postings: Postings, terms: list[str], prefix: list[str], bound: int) -> list[int]:
    rarest = sorted((len(rows), term) for term in set(terms) if (rows := postings.raw(term)))
    several = [reversed(postings.raw(term)) for _, term in rarest[: max(1, len(rarest) - 1)]]
    return list(dict.fromkeys(row for rows in several for row in rows))


@given(facts_in_order)
def test_memories_that_are_not_compared_would_change_no_decision(
    facts: list[tuple[list[str], int, float]],
) -> None:
    stream = [(" ".join(w), {"at": at, "loss_delta": delta}) for w, at, delta in facts]
    decided = [(d.outcome, d.memory_id, d.nearest, d.similarity) for d in feed(Bank(), *stream)]
    with patch.object(dedup, "candidates", all_that_share_a_word):
        thorough = [(d.outcome, d.memory_id, d.nearest, d.similarity) for d in feed(Bank(), *stream)]
    assert decided == thorough
