"""Scores of the measurements: shares, the F1 of an answer, repetition within a text."""

import re
import string
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_PUNCTUATION = str.maketrans("", "", string.punctuation)
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
