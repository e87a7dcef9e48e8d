"""The passage of a long fact that is read for a prompt."""

import numpy as np

from pipeline.retrieve.passage import WORDS, passage
from pipeline.text.annotate import AnnotatedText

FILLER = "Nobody knows what the weather over the bay will be like in the coming days or weeks."
LINES = [f"{FILLER} ({n})" for n in range(12)]


def read(text: str, *asked: str) -> str:
    fact = AnnotatedText(text)
    matched = np.array([term in asked for term in fact.terms])
    return passage(fact, matched, np.ones(len(fact.terms)))


def test_a_short_fact_is_read_whole() -> None:
    text = "  The lamp is red.  It hangs in the hall.\nNobody lit it. "
    assert read(text, "lamp") == text
    assert read("", "lamp") == ""


def test_of_a_long_fact_the_best_sentence_and_its_neighbours_are_read() -> None:
    lines = [*LINES[:6], "Ines Okafor chaired the meeting.", *LINES[6:]]
    for separator in (" ", "\n"):
        found = read(separator.join(lines), "ines", "meeting")
        assert found.startswith(FILLER)
        rest = found.removeprefix(FILLER).strip()
        assert "Ines Okafor chaired the meeting." in rest
        assert len(rest.split()) <= WORDS and rest in separator.join(lines)
    assert read(" ".join(lines), "nothing").startswith(FILLER), "the beginning, where none agrees"


def test_a_word_that_stands_often_counts_once() -> None:
    lines = ["The crane, the crane, the crane!", *LINES, "The crane came from Brightwater."]
    assert read(" ".join(lines), "crane", "came").endswith("The crane came from Brightwater.")


def test_one_long_sentence_is_read_whole() -> None:
    text = "and ".join(f"berth {n} is taken " for n in range(40))
    assert read(text, "berth") == text.strip()
