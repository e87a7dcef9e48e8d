"""Tests of text analysis: words, names, clauses, prompt labels, frequencies, annotated texts."""

import numpy as np
import pytest

from pipeline.text.annotate import AnnotatedText, annotate
from pipeline.text.clauses import begins_sentence, ends_in_label, places, prompt_labels
from pipeline.text.frequencies import Frequencies
from pipeline.text.names import continues_previous, in_dates, name_scores
from pipeline.text.words import (
    begins_with,
    blank_before,
    matching_before,
    same_word,
    split,
    term_similarity,
    terms_of,
)


@pytest.mark.parametrize(
    "text", ["Where is Oslo, 3,5 km?", "Straße der ﬁne Ärzte", "法国的首都 Paris", "ไทย abc", ""]
)
def test_terms_are_those_of_the_words(text: str) -> None:
    words = split(text)
    assert terms_of(text) == [word.term for word in words]
    assert all(text[word.start : word.end].strip() for word in words)
    assert begins_with(text, terms_of(text)[:2])
    assert not begins_with(text, [*terms_of(text), "more"])


def test_a_term_is_normalised() -> None:
    assert terms_of("ﬁne STRASSE Straße ４２") == ["fine", "strasse", "strasse", "42"]
    assert terms_of("法国 is France") == ["法", "国", "is", "france"]


def test_forms_of_one_word_are_similar() -> None:
    assert term_similarity("orbit", "orbit") == 1.0
    assert term_similarity("orbit", "orbits") == term_similarity("orbits", "orbit") == (5 / 6) ** 2
    assert term_similarity("orb", "orbs") == term_similarity("2023a", "2023b") == 0.0
    assert term_similarity("located", "locomotion") == 0.0
    assert term_similarity("a" * 20 + "b", "a" * 25) == 0.0
    assert same_word("orbit", "orbits") and not same_word("orbiting", "orbital")


def test_words_before_a_place_that_end_the_context_are_counted() -> None:
    words = split("Mira Holt leads the Vesk Wolves")
    assert matching_before(words, 3, ["when", "holt", "leads"]) == 2
    assert matching_before(words, 2, ["mira", "holt"]) == 2
    assert matching_before(words, 0, ["mira"]) == matching_before(words, 3, []) == 0


def test_a_word_has_a_blank_before_it_where_its_script_has_blanks() -> None:
    assert blank_before("Oslo is", 0) and blank_before("Oslo is", 5) and not blank_before("(Oslo", 1)
    assert not blank_before("法国", 0) and not blank_before("法国", 1)


@pytest.mark.parametrize(
    "text, begins",
    [
        ("The husband of Sena Okafor", "the husband of sena"),
        ("It spans the Vesk River, Tarn Hollow and Windows 8", "it spans the vesk tarn and windows"),
        ("about 5,120 metres of grey-green line", "about 5 metres of grey line"),
        ("法国首都", "法 国 首 都"),
    ],
)
def test_a_word_within_a_name_or_a_number_continues_it(text: str, begins: str) -> None:
    words = split(text)
    continues = continues_previous(text, words, name_scores(text, words, [0.0] * len(words)))
    assert [
        word.term for word, goes_on in zip(words, continues, strict=True) if not goes_on
    ] == begins.split()
    assert continues_previous("", [], []) == []


def test_without_capitals_rare_words_are_names() -> None:
    text = "munich is big"
    assert name_scores(text, split(text), [1.0, 0.4, 0.6]) == [1.0, 0.0, 0.0]
    text = "Munich is in Bavaria"
    assert name_scores(text, split(text), [1.0] * 4) == [0.5, 0.0, 0.0, 1.0]


def test_a_date_is_a_year_and_what_belongs_to_it() -> None:
    def date(text: str) -> str:
        read = AnnotatedText(text)
        found = in_dates(read.terms, read.name_scores.tolist())
        return " ".join(term for term, is_date in zip(read.terms, found, strict=True) if is_date)

    assert date("born in 2023 there") == "2023"
    assert date("born on 21 May 2023") == "21 may 2023"
    assert date("born on 2023-05-21") == "2023 05 21"
    assert date("the 1955 Dodge") == date("shirt 84") == ""


def test_places_count_sentences_and_clauses() -> None:
    text = "Ann Lee, who was born in 1,200 B.C., lives. She sings"
    found = places(text, split(text))
    assert [place.sentence for place in found] == [0] * 11 + [1] * 2
    # Two words are no clause; a comma in a number and a point in a name end none.
    assert [place.clause for place in found] == [0] * 10 + [1] + [2] * 2


def test_a_sentence_begins_after_a_full_stop_and_at_the_beginning() -> None:
    assert begins_sentence("") and begins_sentence('He left." ') and begins_sentence("终于。")
    assert not begins_sentence("He left") and not begins_sentence("He left, ")


def test_labels_are_those_of_a_prompt_that_ends_in_an_empty_one() -> None:
    text = "Question: Where is Oslo?\nAnswer:"
    labels = prompt_labels(text, split(text))
    assert ends_in_label(text) and not ends_in_label("Answer: Oslo")
    assert [w.term for i, w in enumerate(split(text)) if i not in labels] == ["where", "is", "oslo"]
    other = "Norway: its capital is"
    assert prompt_labels(other, split(other)) == set()


def test_frequencies_follow_the_vocabularys_order() -> None:
    vocabulary = {"<eos>": 0, "a": 1, " the": 2, " oslo": 3, " Oslo": 4, " May": 5, " may": 6}

    def tokenize(text: str) -> list[int]:
        return [vocabulary[text]] if text in vocabulary else [1, 1]

    frequencies = Frequencies(vocabulary, tokenize)
    assert (
        frequencies.unigram_nll("the") < frequencies.unigram_nll("Oslo") < frequencies.unigram_nll("Bergen")
    )
    assert frequencies.unigram_nll("Bergen") == frequencies.max_nll
    assert frequencies.is_commoner_lowercase("Oslo") and not frequencies.is_commoner_lowercase("May")
    assert frequencies.unigram_nll("q") == pytest.approx(np.log(1000))


def test_a_facts_annotation_is_made_once() -> None:
    nll = np.array([12.0, 2.0, 12.0], np.float32)
    fact = annotate("Oslo is cold.", nll)
    assert fact is annotate("Oslo is cold.", nll.copy()) and fact is not annotate("Oslo is cold.", nll + 1)
    assert fact.terms == ["oslo", "is", "cold"] and fact.informative(10.0) == [True, False, True]
    assert fact.name_scores.tolist() == [0.5, 0.0, 0.0] and fact.place_numbers.tolist() == [[0, 0]] * 3
    assert fact.continues == [False] * 3
    with pytest.raises(ValueError, match="read-only"):
        fact.name_scores[0] = 1.0


def test_an_empty_text_can_be_annotated() -> None:
    empty = AnnotatedText("")
    assert empty.words == [] and empty.place_numbers.shape == (0, 2) and empty.informative(1.0) == []
