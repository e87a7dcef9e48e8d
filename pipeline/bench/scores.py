"""What the measurements count: shares, the overlap of an answer with the right one, and how much a text repeats itself.

Functions of texts and numbers alone; knows nothing of models, memories or files.
"""

import re
import string
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")


@dataclass(frozen=True, slots=True)
class Measure:
    """One line of the report: the bare model, prompting and memory side by side. None: it does not apply."""

    name: str
    asked: int
    bare: float | None = None
    prompting: float | None = None
    memory: float | None = None
    prompting_asked: int = 0
    """Prompting is measured on the first so many of those asked."""
    prompting_by: str = ""
    """The way of prompting that was best at this measure."""
    memory_there: float | None = None
    """The memory's figure on the very same ones as prompting's."""


def share(these: Iterable[bool]) -> float | None:
    """Which part of them is true; None when there are none."""
    counted = list(these)
    return sum(counted) / len(counted) if counted else None


def mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def divided(part: float | None, whole: float | None) -> float | None:
    return None if part is None or not whole else part / whole


def percentile(values: Sequence[float], q: float) -> float:
    """The value that a share q of the values does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))]


def says(text: str, target: str) -> bool:
    """Whether the text has the target in it, whatever its capitals."""
    return target.casefold() in text.casefold()


def repeated_4grams(texts: Iterable[str]) -> float | None:
    """Of the texts' runs of four words, the share that stood earlier in the same text. None without any run."""
    runs = repeats = 0
    for text in texts:
        words = text.casefold().split()
        grams = [tuple(words[i : i + 4]) for i in range(len(words) - 3)]
        runs += len(grams)
        repeats += len(grams) - len(set(grams))
    return repeats / runs if runs else None


def f1(answer: str, right: str) -> float:
    """SQuAD's overlap of words: no capitals, no punctuation, no articles."""
    said, wanted = _normal(answer), _normal(right)
    if not said or not wanted:
        return float(said == wanted)
    common = sum((Counter(said) & Counter(wanted)).values())
    return 2 * common / (len(said) + len(wanted))


def _normal(text: str) -> list[str]:
    return _ARTICLES.sub(" ", text.casefold().translate(_PUNCTUATION)).split()
