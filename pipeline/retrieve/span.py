"""Answer span of a fact: the words that the prompt lacks and asks for.

    prompt   Torben Betts is originally from
    fact     Torben Betts was originally from Munich.
             matched matched  matched         the answer span

Arrays are padded, see word_arrays.py.
"""

import numpy as np

from pipeline.config import TEXT, Settings
from pipeline.retrieve.word_arrays import Bools, Floats, Ints, PaddedWords, is_name, rows_at_once


def spans_of(
    prompts: PaddedWords, facts: PaddedWords, equal: Bools, similarity: Floats, settings: Settings
) -> tuple[Ints, Floats]:
    """The answer spans, and how much each word of the facts is asked for.

    Returns [pairs, 2] the first word of the span and the word after its last, 0 and 0 where the prompt lacks nothing; and
    [pairs, f] 0 to 1. equal, similarity: [pairs, p, f] of the words' terms.
    """
    covered = similarity.max(1)
    asked_for = _asked_for(prompts, facts, equal, similarity, settings)
    spans = heaviest_unmatched(covered, facts.weights**2 * asked_for**2, _breaks(facts, settings))
    return spans, asked_for


def heaviest_unmatched(covered: Floats, mass: Floats, breaks: Bools) -> Ints:
    """[pairs, 2] the heaviest run of contiguous unmatched words in each row, the first of equal ones; 0 and 0 for none.

    Words without mass do not end a run. covered: [pairs, f] similarity to the prompt; mass: [pairs, f]; breaks: [pairs, f]
    whether a run ends before the word.
    """
    pairs, f = mass.shape
    unmatched = (covered <= TEXT.same_word) & (mass > 0)
    # The number of each word's run.
    runs = np.cumsum(breaks | ((covered > TEXT.same_word) & (mass > 0)), axis=1)
    at = runs + np.arange(pairs)[:, None] * (f + 1)
    weights = np.bincount(at.ravel(), (mass * unmatched).ravel(), pairs * (f + 1)).reshape(pairs, f + 1)
    best = unmatched & (runs == weights.argmax(1)[:, None])
    spans = np.stack([best.argmax(1), f - best[:, ::-1].argmax(1)], axis=1)
    spans[~best.any(1)] = 0
    return spans


def _asked_for(
    prompts: PaddedWords, facts: PaddedWords, equal: Bools, similarity: Floats, settings: Settings
) -> Floats:
    """[pairs, f] how much each of the fact's words is asked for, 0 to 1.

    Matching names tell the subject of the whole fact. Other matching words tell which clause is asked for, and which word of
    it: one near to them.
    """
    wording = np.minimum(
        1.0 - is_name(prompts.name_scores)[:, :, None], 1.0 - is_name(facts.name_scores)[:, None, :]
    )
    evidence = (similarity * wording).max(1) * facts.weights**2
    # "Zephyr kettle": a word that is beside a name in both texts is a part of the name.
    named = facts.name_scores > 0
    beside = (equal[:, :-1, :-1] & equal[:, 1:, 1:]).any(1) & (named[:, 1:] != named[:, :-1])
    evidence[:, :-1][beside & named[:, 1:]] *= settings.name_evidence
    evidence[:, 1:][beside & named[:, :-1]] *= settings.name_evidence
    asked_for = _evidence_around(facts, evidence, settings) + settings.evidence_prior
    asked_for[_within_quote(facts, equal, similarity.max(1) > TEXT.same_word)] = 0.0
    return np.asarray(asked_for / asked_for.max(1, initial=settings.evidence_prior, keepdims=True))


def _evidence_around(facts: PaddedWords, evidence: Floats, settings: Settings) -> Floats:
    """[pairs, f] the sum of the evidence of the words around each, which falls with their distance."""
    pairs, f = evidence.shape
    around, places = np.empty_like(evidence), np.arange(f)
    rows = rows_at_once(pairs * f)  # words of a long text are computed a few at a time
    for start in range(0, f, rows):
        some = slice(start, start + rows)
        near = np.exp(-np.abs(places[some, None] - places) / settings.evidence_reach)
        same_clause = facts.clauses[:, some, None] == facts.clauses[:, None, :]
        weights = np.where(same_clause, 1.0, settings.other_clause_evidence)
        weights *= facts.sentences[:, some, None] == facts.sentences[:, None, :]
        weights *= near
        weights *= evidence[:, None, :]
        around[:, some] = weights.sum(2)
    return around


def _within_quote(facts: PaddedWords, equal: Bools, matched: Bools) -> tuple[Ints, Ints]:
    """Indices (pairs, words) of words within a phrase of the prompt: "city" in "capital city of", for "capital of".

    Such words are wording, which is never the answer.
    """
    f = np.arange(matched.shape[1])
    before = np.maximum.accumulate(np.where(matched, f, -1), axis=1)
    after = np.minimum.accumulate(np.where(matched, f, len(f))[:, ::-1], axis=1)[:, ::-1]
    pair, word = np.nonzero(~matched & (before >= 0) & (after < len(f)))
    first, last = before[pair, word], after[pair, word]
    together = (equal[pair, :-1, first] & equal[pair, 1:, last]).any(1)
    names = np.cumsum(facts.name_scores > 0, axis=1)
    together &= names[pair, last - 1] == names[pair, first]
    return pair[together], word[together]


def _breaks(facts: PaddedWords, settings: Settings) -> Bools:
    """[pairs, f] whether an answer ends before the word: at a new clause, and at two small words that are not in a name."""
    breaks = np.ones(facts.terms.shape, bool)
    breaks[:, 1:] = facts.clauses[:, 1:] != facts.clauses[:, :-1]
    small = facts.weights < settings.informative * facts.weights.max(1, keepdims=True)
    named, words = facts.name_scores > 0, facts.terms >= 0
    in_name = named[:, :-3] & named[:, 3:]
    breaks[:, 1:-2] |= small[:, 1:-2] & small[:, 2:-1] & ~in_name & words[:, 3:]
    return breaks
