"""Alignment of a prompt with a fact: which words match, and which share of the mass at stake.

The gate opens by the share of the mass at stake that matches. A word's mass is its weight squared, so that a name
outweighs the wording around it. A missing word weighs the lesser of its weight and its surprisal ("located" surprises nobody
after "Where is Oslo"). A missing name has all its weight, and more next to a matching name: "Nissan Skyline" is not "Nissan
Skyline GT-R", and "Perry Benson" is not "Perry Barr". A fact without any date does not lack the prompt's date. At stake are
the words of the clause with the answer span, so that of a long text only the part that is asked about counts.

Many pairs are aligned together, each in a row of the arrays: a step of numpy costs almost the same for one row.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from pipeline.config import TEXT, Settings
from pipeline.retrieve.span import spans_of
from pipeline.retrieve.word_arrays import (
    Bools,
    Floats,
    Ints,
    PaddedWords,
    WordArrays,
    is_name,
    of_like_lengths,
    pad,
)
from pipeline.text.names import in_dates, is_year
from pipeline.text.words import term_similarity

Pairs = Sequence[tuple[WordArrays, WordArrays]]


class Alignment(NamedTuple):
    matched: Bools  # [fact's words] whether the prompt has the word, in some form of it
    span: tuple[int, int]  # the answer: its first word and the word after its last; (0, 0) for none
    share: float  # 0 to 1, how much of the mass at stake matches
    opening: float  # the same without a date that the fact does not lack: the gate opens by it
    asked_for: Floats  # [fact's words] 0 to 1, how much each is asked for; 0 within a phrase of the prompt


def align(pairs: Pairs, settings: Settings) -> list[Alignment]:
    """The alignment of each prompt with its fact. It does not depend on the other pairs."""
    found: list[Alignment | None] = [None] * len(pairs)
    for group in of_like_lengths(pairs):
        for i, alignment in zip(group, _aligned([pairs[i] for i in group], settings), strict=True):
            found[i] = alignment
    return [alignment for alignment in found if alignment]


def _aligned(pairs: Pairs, settings: Settings) -> list[Alignment]:
    numbers: dict[str, int] = {}
    distinct = {id(prompt): prompt for prompt, _ in pairs}  # one prompt has many facts
    row_of = {prompt: row for row, prompt in enumerate(distinct)}
    rows = [row_of[id(prompt)] for prompt, _ in pairs]
    prompts = PaddedWords._make(array[rows] for array in pad(list(distinct.values()), numbers, -1))
    facts = pad([fact for _, fact in pairs], numbers, -2)

    equal = prompts.terms[:, :, None] == facts.terms[:, None, :]
    similarity = _similarities(prompts, facts, equal, list(numbers))
    spans, asked_for = spans_of(prompts, facts, equal, similarity, settings)
    shares, openings = _shares(pairs, prompts, facts, equal, similarity, spans, settings)
    matched = similarity.max(1) > TEXT.same_word
    lengths = [len(fact.terms) for _, fact in pairs]
    return [
        Alignment(own_matched[:f].copy(), (first, after), share, opening, own_asked_for[:f].copy())
        for f, own_matched, (first, after), share, opening, own_asked_for in zip(
            lengths, matched, spans.tolist(), shares.tolist(), openings.tolist(), asked_for, strict=True
        )
    ]


def _similarities(prompts: PaddedWords, facts: PaddedWords, equal: Bools, terms: Sequence[str]) -> Floats:
    """[pairs, p, f] the term similarity of the words, computed only where their stems agree."""
    numbers: dict[str, int] = {}
    stems = [numbers.setdefault(term[: TEXT.stem], len(numbers)) for term in terms]
    of_term = np.array([*stems, -2, -1])  # the last two are for padding, -2 and -1
    may = of_term[prompts.terms][:, :, None] == of_term[facts.terms][:, None, :]
    similarity = equal.astype(np.float64)
    pair, p, f = np.nonzero(may & ~equal)
    ones, others = prompts.terms[pair, p].tolist(), facts.terms[pair, f].tolist()
    similarity[pair, p, f] = [term_similarity(terms[a], terms[b]) for a, b in zip(ones, others, strict=True)]
    return similarity


def _shares(
    pairs: Pairs,
    prompts: PaddedWords,
    facts: PaddedWords,
    equal: Bools,
    similarity: Floats,
    spans: Ints,
    settings: Settings,
) -> tuple[Floats, Floats]:
    """[pairs] the matching share of the mass at stake: with all of the prompt's words, and without dates not lacked."""
    # [pairs, p] and [pairs, f] how well each word is matched by the other side.
    has, covered = similarity.max(2), similarity.max(1)
    at_stake = _at_stake(facts, covered, spans)
    places = np.arange(covered.shape[1])
    beside_span = at_stake & ((places < spans[:, :1]) | (places >= spans[:, 1:]))
    masses = prompts.weights**2 * has
    matching = masses.sum(1)
    # Missing wording weighs less beside a matching name, but not where only wording matches.
    named = np.minimum(1.0, _ratio((masses * prompts.name_scores).sum(1), matching) / settings.named_share)
    wording = 1.0 - named * (1.0 - settings.wording_weight)
    # Where the fact has all of the prompt's names, a further name is a detail, not another subject.
    names = prompts.weights**2 * prompts.name_scores
    has_all_names = _ratio((names * has).sum(1), names.sum(1)) > settings.whole_names
    details = np.where(has_all_names[:, None] & (facts.name_scores > 0), settings.detail_weight, 1.0)
    rest = settings.rest_weight * _missing(prompts, has, wording)
    lacking = (_missing(facts, covered, wording) * details * beside_span).sum(1)
    torn = settings.torn_weight * (_torn(prompts, has).sum(1) + (_torn(facts, covered) * at_stake).sum(1))
    torn += matching * _of_another_name(pairs, prompts, facts, equal, covered, settings)
    total = matching + lacking + torn
    undated = _undated(pairs, prompts, has, settings)
    return _ratio(matching, total + rest.sum(1)), _ratio(matching, total + (rest * ~undated).sum(1))


def _ratio(part: Floats, whole: Floats) -> Floats:
    """part / whole; 0 where the whole is 0."""
    return np.divide(part, whole, out=np.zeros_like(whole), where=whole != 0)


def _missing_weights(side: PaddedWords) -> Floats:
    """The weight of each word when it is missing: a name has all of it, however expected ("The capital of" Spain, France)."""
    return np.minimum(side.weights, np.maximum(side.surprisals, side.name_scores * side.weights))


def _missing(side: PaddedWords, has: Floats, wording: Floats) -> Floats:
    """[pairs, words] the mass of each missing word. wording: [pairs] the weight of words other than names."""
    named = 1.0 - (1.0 - wording)[:, None] * (1.0 - is_name(side.name_scores))
    return np.asarray(_missing_weights(side) ** 2 * (1 - has) * named)


def _torn(side: PaddedWords, has: Floats) -> Floats:
    """[pairs, words] the mass of each missing name right beside a matching one: the two may be parts of one name."""
    named = side.name_scores * (has > TEXT.same_word) * side.weights
    joined = side.clauses[:, 1:] == side.clauses[:, :-1]
    beside = np.zeros_like(named)
    beside[:, :-1] = named[:, 1:] * joined
    beside[:, 1:] = np.maximum(beside[:, 1:], named[:, :-1] * joined)
    return np.asarray(side.name_scores * (has <= TEXT.same_word) * _missing_weights(side) * beside)


def _at_stake(facts: PaddedWords, covered: Floats, spans: Ints) -> Bools:
    """[pairs, f] whether each word of the fact is at stake.

    That is the answer's clause, and the matching names of its sentence with all their words. If no name matches, it is also
    the text's first name, its subject. Without an answer it is all words.
    """
    row, first = np.arange(len(spans)), spans[:, 0]
    stake = facts.clauses == facts.clauses[row, first][:, None]
    sentence = facts.sentences == facts.sentences[row, first][:, None]
    named = facts.name_scores > 0
    begins = named.copy()
    begins[:, 1:] &= ~named[:, :-1] | (facts.clauses[:, 1:] != facts.clauses[:, :-1])
    names = np.cumsum(begins, axis=1) * named  # the number of each word's name, from 1, and 0 for none
    matched = np.zeros((len(spans), covered.shape[1] + 1), bool)
    pair, word = np.nonzero(named & sentence & (covered > TEXT.same_word))
    matched[pair, names[pair, word]] = True
    matched[:, 1] |= ~matched.any(1)
    stake |= matched[row[:, None], names]
    stake[spans[:, 1] == 0] = True
    return np.asarray(stake)


def _undated(pairs: Pairs, prompts: PaddedWords, has: Floats, settings: Settings) -> Bools:
    """[pairs, p] the words of the prompt's dates, if the fact has the prompt's other names, and no year.

    Such a fact does not tell when, so it does not tell another time.
    """
    found = np.zeros(has.shape, bool)
    dates = {id(prompt): in_dates(prompt.terms, prompt.name_scores.tolist()) for prompt, _ in pairs}
    for i, (prompt, fact) in enumerate(pairs):
        if any(own := dates[id(prompt)]) and not any(map(is_year, fact.terms)):
            found[i, : len(own)] = own
    says = prompts.weights >= settings.informative * prompts.weights.max(1, keepdims=True)
    # A capital alone ("The") is not a name.
    names = prompts.weights**2 * prompts.name_scores * (says & ~found)
    return found & (_ratio((names * has).sum(1), names.sum(1)) > settings.whole_names)[:, None]


def _of_another_name(
    pairs: Pairs, prompts: PaddedWords, facts: PaddedWords, equal: Bools, covered: Floats, settings: Settings
) -> Bools:
    """[pairs] whether the fact has the prompt's last words after another name than the prompt.

    "Jan Peel manages" is not answered by "Mira Holt manages Jan Peel." The words are those after the prompt's last name. In
    the fact they follow a name that the prompt lacks, and one of them is informative, as "is" is not.
    """
    named, p = prompts.name_scores > 0, np.arange(prompts.name_scores.shape[1])
    after = len(p) - named[:, ::-1].argmax(1)
    says = (prompts.weights * (p >= after[:, None])).max(1)
    # After a prompt's last word comes padding, which equals no word of the fact.
    follows = equal[np.arange(len(equal)), np.minimum(after, len(p) - 1)]
    another = (facts.name_scores > 0) & (covered <= TEXT.same_word)
    begins = follows[:, 1:] & another[:, :-1] & (facts.clauses[:, 1:] == facts.clauses[:, :-1])
    enough = says >= settings.informative * facts.weights.max(1)
    begins &= (named.any(1) & (after < len(p)) & enough)[:, None]
    found = np.zeros(len(pairs), bool)
    for i, before in np.argwhere(begins).tolist():
        rest, words = pairs[i][0].terms[after[i] :], pairs[i][1].terms
        found[i] |= list(words[before + 1 : before + 1 + len(rest)]) == list(rest)
    return found
