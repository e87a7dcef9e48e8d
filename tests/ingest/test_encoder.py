"""The words that tokens belong to."""

from pipeline.ingest.encoder import words_of_tokens
from pipeline.text.words import split


def test_tokens_belong_to_the_words_that_they_are_parts_of() -> None:
    words = split("ab cde, f")
    assert words_of_tokens([(0, 1), (1, 2), (3, 6), (6, 7), (8, 9)], words).tolist() == [0, 0, 1, -1, 2]
