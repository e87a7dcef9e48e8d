"""Words of a text, and how much each says before any fact is known.

A word is a run of letters and digits; in scripts that put no blanks between words, one character. What a word says is
-log of its frequency, and that frequency comes from the tokenizer: a BPE vocabulary is in the order in which its
merges were learned, so a token's rank r is its frequency rank, and by Zipf's law p = 1 / (r ln V). Every worker with
the same model has the same prior, and it exists before the first fact. Nothing here names a language.
"""

import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import islice, pairwise
from typing import NamedTuple

# Thai, Lao, Burmese, Khmer, kana, Han: no blanks between words.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W_{_UNSPACED}]+")

_WITHOUT_BLANKS = re.compile(f"[{_UNSPACED}]")

_BEFORE_A_SENTENCE = ("", ".", "!", "?", ":", "\n", "…", "。")

# A comma within a number, and a point within a name ("F.C."), have no blank behind them; where no blanks are put they need none.
_PARTS = re.compile(r"[,;:](?=[\s\"'”’»)\]])|[、，；：]")
_ENDS = re.compile(r"[.!?…](?=[\s\"'”’»)\]])|[。！？]|\n")
_CLAUSE_WORDS = 3
_LABEL = re.compile(r"\s*[^\W\d_]+\s*[:：]")

SAID_BEFORE = 8  # words of a text, from its end, that the words before a place are compared with
BEGINNING = 4  # characters that two forms of one word have in common at least

_SYMBOL_FREQUENCY = 1e-3  # of a single letter or digit: its place in the vocabulary says nothing


class Word(NamedTuple):
    form: str  # normalised, for comparing
    start: int  # characters
    end: int


def split(text: str) -> list[Word]:
    """The words of `text`, in order."""
    if text.isascii():  # the same, and faster: nothing is normalised but capitals
        return [Word(m.group(), m.start(), m.end()) for m in _WORD.finditer(text.lower())]
    return [Word(_normal(m.group()), m.start(), m.end()) for m in _WORD.finditer(text)]


def forms(text: str) -> list[str]:
    """The same words without their places."""
    return _WORD.findall(text.lower()) if text.isascii() else [_normal(form) for form in _WORD.findall(text)]


@lru_cache(maxsize=128)
def words_of(text: str) -> tuple[Word, ...]:
    """The words of a text that is about to be decided, which is asked for them more than once."""
    return tuple(split(text))


def begins(text: str, forms: list[str]) -> bool:
    """Whether the first words of `text` have these forms. Reads no more of it than these."""
    return [_normal(m.group()) for m in islice(_WORD.finditer(text), len(forms))] == forms


def _normal(word: str) -> str:
    return unicodedata.normalize("NFKC", word).casefold()


@lru_cache(maxsize=262_144)
def likeness(a: str, b: str) -> float:
    """1 for the same word, less for two forms of one (orbit, orbits), 0 for different ones.

    Forms share their beginning in most inflecting languages; four characters and 60 % of the longer word are asked for.
    """
    if a == b:
        return 1.0
    longer = max(len(a), len(b))
    alike = min(len(a), len(b)) >= BEGINNING and a[:BEGINNING] == b[:BEGINNING] and longer <= 24
    if not alike or not (a.isalpha() and b.isalpha()):
        return 0.0
    common = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    return (common / longer) ** 2 if common / longer >= 0.6 else 0.0


def marked(text: str, words: Sequence[Word], priors: Sequence[float]) -> list[float]:
    """How much each word looks like a name or a number: 1, or 0.5 where a capital may only begin a sentence, or 0.

    The sign is a capital or a digit. A text without any (a script that has no capitals, a careless typist) shows no
    sign: there a word counts as a name by how near it is to saying the most that a word can (priors, as shares of it).
    """
    marks = []
    for word in words:
        surface = text[word.start : word.end]
        named = surface != surface.lower() or numbered(surface)
        begins = text[: word.start].rstrip()[-1:] in _BEFORE_A_SENTENCE
        marks.append((0.5 if begins else 1.0) if named else 0.0)
    if any(marks):
        return marks
    return [min(1.0, max(0.0, (share - 0.7) / 0.25)) for share in priors]


def numbered(form: str) -> bool:
    """Whether a word is a number, or has one in it."""
    return any(map(str.isdigit, form))


def is_year(form: str) -> bool:
    """Whether a word may be a year of four digits."""
    return form.isdecimal() and len(form) == 4


def dated(forms: Sequence[str], marks: Sequence[float]) -> list[bool]:
    """Of each word, whether it is a part of a date: a year, with a name and a number at most right before it ("21 May 2023"),
    or short numbers behind it ("2023-05-21"). Right before a name it is a part of that ("1955 Dodge")."""
    found = [False] * len(forms)
    for year in [i for i, form in enumerate(forms) if is_year(form)]:
        end = year + 1
        while end < min(len(forms), year + 3) and forms[end].isdecimal() and len(forms[end]) <= 2:
            end += 1
        if end < len(forms) and marks[end]:
            continue
        begin, kinds = year, set[bool]()
        while begin > max(0, year - 2) and marks[begin - 1] and numbered(forms[begin - 1]) not in kinds:
            begin -= 1
            kinds.add(numbered(forms[begin]))
        found[begin:end] = [True] * (end - begin)
    return found


def joined(text: str, words: Sequence[Word], marks: Sequence[float]) -> list[bool]:
    """Of each word, whether it goes on with what the one before it began: a name ("Vesk River"), or whatever has no blank
    within ("5,120"). Nobody begins to speak there. Between characters of a script without blanks nothing is known."""
    gaps = [text[before.end : word.start] for before, word in pairwise(words)]
    named = [mark > 0 for mark in marks]
    return [False] * bool(words) + [
        bool(gap) and (not any(map(str.isspace, gap)) or (gap.isspace() and named[i] and named[i + 1]))
        for i, gap in enumerate(gaps)
    ]


class Part(NamedTuple):
    """Where a word stands."""

    sentence: int  # from 0
    clause: int  # from 0, counted through the text


def parts(text: str, words: Sequence[Word]) -> list[Part]:
    """Where each word stands. A mark that parts a sentence closes a clause of three words or more."""
    found, sentence, clause, length = [], 0, 0, 0
    for i, word in enumerate(words):
        gap = text[words[i - 1].end : word.start] if i else ""
        ends = bool(_ENDS.search(gap))
        if length and (ends or (length >= _CLAUSE_WORDS and _PARTS.search(gap))):
            sentence, clause, length = sentence + ends, clause + 1, 0
        found.append(Part(sentence, clause))
        length += 1
    return found


def begins_sentence(before: str) -> bool:
    """Whether a sentence may begin behind this text."""
    line = before.rstrip(" \t\"'”’»)]*_")
    return not line or line[-1] in ".!?…。！？\n"


def blank_before(text: str, start: int) -> bool:
    """Whether the word at this place of a text has a blank before it, or would have one if the text began later."""
    return text[start - 1].isspace() if start else not _WITHOUT_BLANKS.match(text)


def follows(words: Sequence[Word], at: int, said: Sequence[str]) -> int:
    """How many of the words before the place `at` are the last that were said, in this order."""
    count = 0
    while count < min(at, len(said)) and likeness(words[at - 1 - count].form, said[-1 - count]) > 0.5:
        count += 1
    return count


def telling(words: Sequence[Word], priors: Iterable[float], informative: float) -> list[bool]:
    """Of each word, whether it says enough to be an answer, or a part of one: `informative` nats at least, or a number."""
    return [
        float(prior) >= informative or numbered(word.form) for word, prior in zip(words, priors, strict=True)
    ]


def form_of(text: str) -> set[int]:
    """The words of a prompt that are its form and not its content: where the last line is an empty label ("Answer:"),
    the labels of all lines ("Question: Where is Oslo?"). By their indices."""
    lines = text.rstrip().split("\n")
    if not _LABEL.fullmatch(lines[-1].strip()):
        return set()
    starts, at = set(), 0
    for line in lines:
        if _LABEL.match(line):
            starts.add(at + len(line) - len(line.lstrip()))
        at += len(line) + 1
    return {w for w, word in enumerate(split(text)) if word.start in starts}


class Frequencies:
    """Prior information of words, from a tokenizer's vocabulary."""

    def __init__(self, vocabulary: Mapping[str, int], tokenize: Callable[[str], list[int]]) -> None:
        """vocabulary: token to id; tokenize: text to ids, nothing added."""
        merged = sorted(
            index for token, index in vocabulary.items() if len(token) > 1 and not token.startswith("<")
        )
        self._rank = {index: rank for rank, index in enumerate(merged, start=1)}
        self._size = max(2, len(merged))
        self._tokenize = tokenize
        self._cached = lru_cache(maxsize=65_536)(self._information)
        self.most = math.log(self._size * math.log(self._size))  # that a word can say, nats

    def information(self, word: str) -> float:
        """-log p(word), nats: about 2 for the commonest word, 13 for one that is no single token of the vocabulary."""
        return self._cached(word)

    def lowered(self, word: str) -> bool:
        """Whether the tokenizer knows the word better without its capital: then a capital only begins a sentence."""
        return self._of_token(" " + word.lower()) < self._of_token(" " + word)

    def _information(self, word: str) -> float:
        return min(self._of_token(" " + form) for form in {word, word.lower()})

    def _of_token(self, text: str) -> float:
        ids = self._tokenize(text)
        if len(ids) == 1 and ids[0] in self._rank:
            return math.log(self._rank[ids[0]] * math.log(self._size))
        if len(text) == 2 and not _WITHOUT_BLANKS.fullmatch(text[1]):
            return -math.log(_SYMBOL_FREQUENCY)
        return self.most
