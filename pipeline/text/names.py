"""Names, numbers and dates among the words of a text, found by capitals and digits."""

from collections.abc import Sequence
from itertools import pairwise

from pipeline.config import TEXT
from pipeline.text.words import Word

_BEFORE_A_SENTENCE = ("", ".", "!", "?", ":", "\n", "…", "。")


def name_scores(text: str, words: Sequence[Word], nll_shares: Sequence[float]) -> list[float]:
    """How much each word looks like a name or a number: 1, or 0.5 where a capital may only begin a sentence, or 0.

    A capital or a digit is the sign of a name. In a text without any (a script that has no capitals, a careless typist)
    a word's score is by how rare it is. nll_shares: each word's unigram_nll, as a share of the largest possible.
    """
    scores = []
    for word in words:
        surface = text[word.start : word.end]
        named = surface != surface.lower() or has_digit(surface)
        begins = text[: word.start].rstrip()[-1:] in _BEFORE_A_SENTENCE
        scores.append((TEXT.sentence_start_score if begins else 1.0) if named else 0.0)
    if any(scores):
        return scores
    return [min(1.0, max(0.0, (share - TEXT.rare_from) / TEXT.rare_range)) for share in nll_shares]


def has_digit(term: str) -> bool:
    """Whether a word is a number, or has one in it."""
    return any(map(str.isdigit, term))


def is_year(term: str) -> bool:
    """Whether a word may be a year of four digits."""
    return term.isdecimal() and len(term) == 4


def in_dates(terms: Sequence[str], scores: Sequence[float]) -> list[bool]:
    """Whether each word is part of a date. scores: the words' name scores.

    A date is a year, with at most a name and a number right before it ("21 May 2023"), or short numbers right after it
    ("2023-05-21"). A year right before a name is part of that name ("1955 Dodge").
    """
    found = [False] * len(terms)
    for year in [i for i, term in enumerate(terms) if is_year(term)]:
        end, last = year + 1, min(len(terms), year + 1 + TEXT.date_after)
        while end < last and terms[end].isdecimal() and len(terms[end]) <= TEXT.date_digits:
            end += 1
        if end < len(terms) and scores[end]:
            continue
        begin, kinds = year, set[bool]()
        while (
            begin > max(0, year - TEXT.date_before)
            and scores[begin - 1]
            and has_digit(terms[begin - 1]) not in kinds
        ):
            begin -= 1
            kinds.add(has_digit(terms[begin]))
        found[begin:end] = [True] * (end - begin)
    return found


def continues_previous(text: str, words: Sequence[Word], scores: Sequence[float]) -> list[bool]:
    """Whether each word continues the one before it: within a name ("Vesk River"), or with no blank between ("5,120").

    Copying never starts at such a word. False between characters of a script without blanks, where nothing tells.
    scores: the words' name scores.
    """
    gaps = [text[before.end : word.start] for before, word in pairwise(words)]
    named = [score > 0 for score in scores]
    return [False] * bool(words) + [
        bool(gap) and (not any(map(str.isspace, gap)) or (gap.isspace() and named[i] and named[i + 1]))
        for i, gap in enumerate(gaps)
    ]
