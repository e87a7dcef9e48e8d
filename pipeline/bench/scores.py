"""Scores of the measurements: shares, the F1 of an answer, repetition within a text."""

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pipeline.text.words import is_unspaced

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_QUOTES = str.maketrans("‘’“”", "''\"\"")
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")


@dataclass(frozen=True, slots=True)
class Measure:
    """One line of the report: the bare model, prompting and the memory side by side. None: does not apply."""

    name: str
    asked: int
    """The number of prompts on which it was measured."""
    bare: float | None = None
    prompting: float | None = None
    memory: float | None = None
    prompting_asked: int = 0
    """The number of them, the first ones, on which prompting was measured."""
    prompting_by: str = ""
    """The best way of prompting at this measure."""
    memory_there: float | None = None
    """The memory's figure on these first prompts."""


def share(flags: Iterable[bool]) -> float | None:
    """The share of true flags; None if there are no flags."""
    counted = list(flags)
    return sum(counted) / len(counted) if counted else None


def mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def divided(part: float | None, whole: float | None) -> float | None:
    return None if part is None or not whole else part / whole


def contains(text: str, target: str) -> bool:
    """Whether the text contains the target, whatever the case of its letters."""
    return target.casefold() in text.casefold()


def says(text: str, answer: str) -> bool:
    """Whether the text's first line that is not blank has the answer as whole words, whatever their case and blanks.

    In scripts that put no blanks between words the answer may stand within other words.
    """
    line, wanted = _plain(text.strip().partition("\n")[0]), _plain(answer)
    begin = line.find(wanted) if wanted else -1
    while begin >= 0:
        edges = (begin, begin + len(wanted))
        if not any(_within_word(line[max(0, at - 1) : at + 1]) for at in edges):
            return True
        begin = line.find(wanted, begin + 1)
    return False


def repeated_4grams(texts: Iterable[str]) -> float | None:
    """The share of four-word sequences that occurred earlier in the same text; None if there are none."""
    count = repeats = 0
    for text in texts:
        words = text.casefold().split()
        grams = [tuple(words[i : i + 4]) for i in range(len(words) - 3)]
        count += len(grams)
        repeats += len(grams) - len(set(grams))
    return repeats / count if count else None


def f1(answer: str, right: str) -> float:
    """The overlap of words as SQuAD measures it: without case, punctuation and articles."""
    given, wanted = _normal(answer), _normal(right)
    if not given or not wanted:
        return float(given == wanted)
    common = sum((Counter(given) & Counter(wanted)).values())
    return 2 * common / (len(given) + len(wanted))


def _normal(text: str) -> list[str]:
    return _ARTICLES.sub(" ", text.casefold().translate(_PUNCTUATION)).split()


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().translate(_QUOTES).split())


def _within_word(letters: str) -> bool:
    """Whether these are two characters of one word."""
    return len(letters) == 2 and all((c.isalnum() or c == "_") and not is_unspaced(c) for c in letters)
