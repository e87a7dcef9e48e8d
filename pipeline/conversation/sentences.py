"""Sentences of a typed message: without code, quoted lines, list markers, emoji and smileys."""

import re
import unicodedata
from collections.abc import Iterator

MAX_CHARS = 900
"""Characters: a longer sentence is cut between two words. Two of them fit into the text of a fact."""

_CODE = re.compile(r"```.*?(?:```|\Z)", re.DOTALL)
_QUOTED = re.compile(r"^\s*>.*$", re.MULTILINE)
_MARKER = re.compile(r"^\s*(?:[-*•]|\d{1,2}[.)])\s+")
_SMILEY = re.compile(r"(?<!\S)(?:[:;=8xX]['’]?-?[)(DPpOo/|\\]+|<3+|\^\^|[xX]+[oO][xXoO]*)(?!\w)")
_END = re.compile(r"(?:[.!?…]+[\"'”’»)\]]*(?=\s|$))|[。！？]+|\n+")
_LAST_WORD = re.compile(r"(\w+(?:\.\w+)*)\.$")
_LONGEST = 24  # characters that are searched for an abbreviation: a text may have thousands of points
_ABBREVIATIONS = frozenset(
    "mr mrs ms dr prof st jr sr vs etc e.g i.e approx no inc ltd co dept fig mt ft p.m a.m u.s u.k".split()
)


def sentences(text: str) -> list[str]:
    """The sentences of a text, in order, each with its punctuation."""
    text = _SMILEY.sub("", _QUOTED.sub("", _CODE.sub("\n", text)))
    text = "".join(char for char in text.replace("’", "'") if not _is_emoji(char))
    return [piece for sentence in _split(text) if sentence for piece in _cut(sentence)]


def _split(text: str) -> Iterator[str]:
    begin = 0
    for end in _END.finditer(text):
        last = text[max(begin, end.end() - _LONGEST) : end.end()]
        if not _is_abbreviation(last, text[end.end() : end.end() + 2].lstrip()[:1]):
            yield _clean(text[begin : end.end()])
            begin = end.end()
    yield _clean(text[begin:])


def _is_abbreviation(sentence: str, following: str) -> bool:
    """Whether the point that ends the text is part of its last word ("Dr.", "J."), and the sentence goes on."""
    last = _LAST_WORD.search(sentence)
    if not last or not following:
        return False
    word = last[1].lower()
    begins = following.isupper() and word in ("etc", "p.m", "a.m", "no", "co", "inc", "ltd")
    return (word in _ABBREVIATIONS and not begins) or (
        len(last[1]) == 1 and last[1].isupper() and word != "i"
    )


def _clean(sentence: str) -> str:
    return " ".join(_MARKER.sub("", sentence).split())


def _cut(sentence: str) -> Iterator[str]:
    while len(sentence) > MAX_CHARS:
        end = sentence.rfind(" ", 1, MAX_CHARS + 1)
        end = end if end > 0 else MAX_CHARS
        yield sentence[:end]
        sentence = sentence[end:].lstrip()
    if sentence:
        yield sentence


def _is_emoji(char: str) -> bool:
    return char >= "\u2190" and (unicodedata.category(char) in ("So", "Sk") or char in "\u200d\ufe0f\u20e3")
