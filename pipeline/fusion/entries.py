"""Entries: where in a fact copying may start, with which tokens, and how likely each start is.

A copy begins at a word that is neither in the prompt nor in the answer so far, with or without the small words before it
("of relativity"). Where a sentence may begin, the fact's whole sentence may be copied, too.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from pipeline.config import TEXT, Settings
from pipeline.fusion.span import Span
from pipeline.retrieve.hit import Hit
from pipeline.text.clauses import begins_sentence
from pipeline.text.words import Word, blank_before, matching_before, terms_of

Tokenize = Callable[[str], list[int]]


@dataclass(frozen=True, slots=True)
class Entry:
    """Tokens that may be copied from now on."""

    tokens: tuple[int, ...]
    bias: float  # log-odds of starting here, apart from the model's own probability of the first token
    answers: bool  # whether the tokens are the answer, or contain it
    direct: int | None = None  # index of the same entry without small words, if this one begins with them


@dataclass(frozen=True, slots=True)
class Source:
    """A memory's text, prepared for copying. The lists have one item a word."""

    text: str
    words: list[Word]
    informative: list[bool]  # whether it says enough to be an answer, or part of one
    missing: list[bool]  # whether the prompt lacks it; with a chosen span, whether a copy may begin at it
    continues: list[bool]  # whether it continues an informative word before it ("Vesk River")
    biases: list[float]  # log-odds of starting at it
    answer: tuple[int, int]  # the answer's words
    sentence: tuple[int, int]  # the words of the sentence that has the answer
    tokens: dict[tuple[int, int, bool], tuple[int, ...]] = field(default_factory=dict)
    """Cache of `_tokens`: first word, end, and whether a blank comes first, to tokens."""


def source(hit: Hit, span: Span | None, informative: float, settings: Settings) -> Source:
    """The hit's text as a source. span: the answer that the model chose; None for the alignment's answer span.

    informative: nats, the least unigram_nll of a word that may be an answer.
    """
    text, surprisals = hit.text, hit.memory.surprisals
    places, terms, scores = text.places, text.terms, text.name_scores
    first, end = hit.alignment.span if span is None else (span.first, span.end)
    if span is None:
        missing = [not has for has in hit.alignment.matched.tolist()]
    else:
        missing = [span.entry <= i <= span.first for i in range(len(terms))]
    named = [score > 0 and not term.isdigit() for score, term in zip(scores, terms, strict=True)]
    says = text.informative(informative)
    here = places[min(first, len(terms) - 1)]
    return Source(
        text.text,
        text.words,
        says,
        missing,
        [continues and says[i - 1] for i, continues in enumerate(text.continues)],
        [
            settings.idf_power * math.log(max(float(idf), settings.least_nats))
            + math.log(max(float(surprisal), settings.least_nats))
            - settings.outside_span * (not first <= i < end)
            - settings.beside_a_name * (first <= i < end and not named[i] and any(named[first:end]))
            - settings.outside_span * (place.clause != here.clause)
            for i, (idf, surprisal, place) in enumerate(zip(hit.idf, surprisals, places, strict=True))
        ],
        (first, end),
        (
            next(i for i, place in enumerate(places) if place.sentence == here.sentence),
            sum(place.sentence <= here.sentence for place in places),
        ),
    )


def entries(
    source: Source, generated: set[str], before: str, tokenize: Tokenize, settings: Settings
) -> list[Entry]:
    """The entries that are possible now. generated: terms of the answer so far; before: the text before the entry."""
    words, says, (first, last) = source.words, source.informative, source.answer
    missing = [
        lacks and word.term not in generated for word, lacks in zip(words, source.missing, strict=True)
    ]
    if not any(lacks and informs for lacks, informs in zip(missing, says, strict=True)):
        return []
    found: list[Entry] = []
    if begins_sentence(before):
        tokens = _tokens(source, *source.sentence, before, tokenize)
        found.append(Entry(tokens, max(source.biases) + settings.statement, True))
    context = terms_of(before)[-TEXT.context_words :]
    starts = 0  # entries in the answer so far
    for i in range(len(words)):
        if not missing[i] or not says[i] or (source.continues[i] and missing[i - 1]):
            continue
        end, bias, answers = i + 1, source.biases[i], first <= i < last
        if answers:
            end, bias, starts = last, bias - settings.later * starts, starts + 1
        else:
            while end < len(words) and missing[end] and says[end]:
                end += 1
        tokens = _tokens(source, i, end, before, tokenize)
        found.append(Entry(tokens, bias + _follows(source, i, context, settings), answers))
        small = i  # the first of the small words before it
        while small and source.missing[small - 1] and not says[small - 1]:
            small -= 1
        if small < i and (follows := _follows(source, small, context, settings)):
            tokens = _tokens(source, small, end, before, tokenize)
            found.append(Entry(tokens, bias + follows, answers, direct=len(found) - 1))
    return found


def _tokens(source: Source, first: int, end: int, before: str, tokenize: Tokenize) -> tuple[int, ...]:
    """The tokens of the words `first` to `end` (exclusive), with a blank before them where one belongs."""
    start, stop = source.words[first].start, source.words[end - 1].end
    blank = bool(blank_before(source.text, start) and before and not before[-1].isspace())
    key = (first, end, blank)
    if key not in source.tokens:
        source.tokens[key] = tuple(tokenize((" " if blank else "") + source.text[start:stop]))
    return source.tokens[key]


def _follows(source: Source, place: int, context: list[str], settings: Settings) -> float:
    """Nats: bonus for the words before `place` that are the last ones of the context."""
    return settings.follows * min(matching_before(source.words, place, context), settings.most_followed)
