"""Sentences and clauses of a text, and the labels of a prompt that ends in an empty label."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from pipeline.config import TEXT
from pipeline.text.words import Word

# A comma within a number, and a point within a name ("F.C."), have no blank after them; scripts without blanks need none.
_CLAUSE_END = re.compile(r"[,;:](?=[\s\"'”’»)\]])|[、，；：]")
_SENTENCE_END = re.compile(r"[.!?…](?=[\s\"'”’»)\]])|[。！？]|\n")
_LABEL = re.compile(r"\s*[^\W\d_]+\s*[:：]")


class Place(NamedTuple):
    """The sentence and the clause of a word."""

    sentence: int  # from 0
    clause: int  # from 0, counted through the text


def places(text: str, words: Sequence[Word]) -> list[Place]:
    """The sentence and the clause of each word."""
    found, sentence, clause, length = [], 0, 0, 0
    for i, word in enumerate(words):
        gap = text[words[i - 1].end : word.start] if i else ""
        ends = bool(_SENTENCE_END.search(gap))
        if length and (ends or (length >= TEXT.clause_words and _CLAUSE_END.search(gap))):
            sentence, clause, length = sentence + ends, clause + 1, 0
        found.append(Place(sentence, clause))
        length += 1
    return found


def begins_sentence(before: str) -> bool:
    """Whether a sentence may begin after this text."""
    line = before.rstrip(" \t\"'”’»)]*_")
    return not line or line[-1] in ".!?…。！？\n"


def ends_in_label(text: str) -> bool:
    """Whether the last line of a prompt is an empty label ("Answer:"): then the prompt is a question."""
    return bool(_LABEL.fullmatch(text.rstrip().rsplit("\n", 1)[-1].strip()))


def prompt_labels(text: str, words: Sequence[Word]) -> set[int]:
    """Indices of a prompt's labels, if it ends in an empty one ("Question: Where is Oslo?\\nAnswer:"); else none.

    Labels are the prompt's form, not its content.
    """
    if not ends_in_label(text):
        return set()
    starts, at = set(), 0
    for line in text.rstrip().split("\n"):
        if _LABEL.match(line):
            starts.add(at + len(line) - len(line.lstrip()))
        at += len(line) + 1
    return {w for w, word in enumerate(words) if word.start in starts}
