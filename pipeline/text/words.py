"""Words of a text: their places, and their terms (the normalised form that is compared and indexed).

A word is a run of letters and digits; in scripts that put no blanks between words, it is one character. Nothing here
names a language.
"""

import re
import unicodedata
from collections.abc import Sequence
from itertools import islice
from typing import NamedTuple

from pipeline.config import TEXT

# Thai, Lao, Burmese, Khmer, kana, Han: no blanks between words.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W_{_UNSPACED}]+")
_UNSPACED_LETTER = re.compile(f"[{_UNSPACED}]")


class Word(NamedTuple):
    term: str
    start: int  # characters, from the text's beginning
    end: int


def split(text: str) -> list[Word]:
    """The words of `text`, in order."""
    if text.isascii():  # the same, and faster: only capitals need normalising
        return [Word(m.group(), m.start(), m.end()) for m in _WORD.finditer(text.lower())]
    return [Word(_normal(m.group()), m.start(), m.end()) for m in _WORD.finditer(text)]


def terms_of(text: str) -> list[str]:
    """The terms of the same words, in order: faster than `split` where no places are needed."""
    return _WORD.findall(text.lower()) if text.isascii() else [_normal(word) for word in _WORD.findall(text)]


def begins_with(text: str, terms: list[str]) -> bool:
    """Whether the first words of `text` are these. Reads no more of the text than that."""
    return [_normal(m.group()) for m in islice(_WORD.finditer(text), len(terms))] == terms


def term_similarity(a: str, b: str) -> float:
    """1 for equal terms, less for two forms of one word (orbit, orbits), 0 for different words.

    Forms share their beginning in most inflecting languages: at least `TEXT.stem` characters, and `TEXT.stem_share` of the
    longer word.
    """
    if a == b:
        return 1.0
    if a[: TEXT.stem] != b[: TEXT.stem]:
        return 0.0
    shorter, longer = sorted((len(a), len(b)))
    if shorter < TEXT.stem or longer > TEXT.longest_inflected or not (a.isalpha() and b.isalpha()):
        return 0.0
    common = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), shorter)
    return (common / longer) ** 2 if common / longer >= TEXT.stem_share else 0.0


def same_word(a: str, b: str) -> bool:
    """Whether two terms are forms of one word."""
    return term_similarity(a, b) > TEXT.same_word


def matching_before(words: Sequence[Word], place: int, context: Sequence[str]) -> int:
    """How many of the words before a place are the last terms of `context`, in the same order."""
    count = 0
    while count < min(place, len(context)) and same_word(words[place - 1 - count].term, context[-1 - count]):
        count += 1
    return count


def blank_before(text: str, start: int) -> bool:
    """Whether the word at this place of a text has a blank before it, or would have one if the text began later."""
    return text[start - 1].isspace() if start else not _UNSPACED_LETTER.match(text)


def is_unspaced(letter: str) -> bool:
    """Whether the character is of a script that puts no blanks between words."""
    return bool(_UNSPACED_LETTER.fullmatch(letter))


def _normal(word: str) -> str:
    return unicodedata.normalize("NFKC", word).casefold()
