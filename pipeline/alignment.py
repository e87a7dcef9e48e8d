"""The prompt's words laid over a fact's words: what is asked, what is answered, and does the one belong to the other.

Knows words: what they say among the facts (information), how they surprised the model where they stand (surprisal),
how much they look like names (marks), and how alike their states are. Knows neither models nor memories. Masses are
squares of nats, so that a name outweighs the wording around it.

    prompt   Torben Betts is originally from
    fact     Torben Betts was originally from Munich.
             covered covered  covered         the answer span

The gate is the covered share of what is at stake. A word that is missing weighs by the lesser of its information and
its surprisal ("located" surprises nobody behind "Where is Oslo"), a name by its information; a missing word that is no
name weighs little, for wording differs; a missing name beside a covered one weighs most: "Nissan Skyline" is not
"Nissan Skyline GT-R", and "Perry Benson" is not "Perry Barr". At stake are the words of the clause that the answer
stands in, so that of a long text no more than what is asked about is weighed.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.settings import Settings
from pipeline.words import likeness

Floats = NDArray[np.float64]

ONE_WORD = 20.0  # nats squared, less than a word says: no more than that is no sign of what is asked for
NAMED = 0.3  # what a word that is a part of a name tells of what is asked for
ANOTHER_CLAUSE = 0.5  # what it tells of the words of another clause of the same sentence
REACH = 4.0  # words, over which a matching word tells less and less of what is asked for
PART = 0.6  # of the most that a word of the fact says: less is a small word


class Words(NamedTuple):
    """One side of an alignment."""

    forms: Sequence[str]
    information: Floats  # [words] nats, among the facts of the bank
    surprisals: Floats  # [words] nats, where they stand
    marks: Floats  # [words] 0 to 1, how much each looks like a name
    parts: NDArray[np.int64]  # [words, 2] the numbers of each one's sentence and clause


class Alignment(NamedTuple):
    covered: Floats  # [fact's words] how well the prompt has it by its form: 0 to 1
    span: tuple[int, int]  # the answer: the heaviest run that the prompt lacks; (0, 0) when it lacks none
    share: float  # 0 to 1, how much of what is at stake matches: the gate opens by it


def align(prompt: Words, fact: Words, settings: Settings) -> Alignment:
    same = np.array([[likeness(p, f) for f in fact.forms] for p in prompt.forms]).reshape(
        len(prompt.forms), len(fact.forms)
    )
    has, covered = same.max(1, initial=0.0), same.max(0, initial=0.0)
    asked = _asked_of(prompt, fact, same)
    span = heaviest_lack(covered, fact.information**2 * asked**2, _breaks(fact))
    at_stake = _at_stake(fact, covered, span)
    beside = at_stake.copy()
    beside[span[0] : span[1]] = False
    masses = prompt.information**2 * has
    have = float(masses.sum())
    # Other wording is forgiven around a name that matches, not where wording is all that does.
    names = min(1.0, 2 * float((masses * prompt.marks).sum()) / have) if have else 0.0
    wording = 1.0 - names * (1.0 - settings.wording_weight)
    rest = settings.rest_weight * _missing(prompt, has, np.ones(len(has), bool), wording)
    lack = _missing(fact, covered, beside, wording)
    torn = settings.torn_weight * (_torn(prompt, has).sum() + _torn(fact, covered)[at_stake].sum())
    if _in_its_place(prompt, fact, covered):
        torn += have
    total = have + rest + lack + torn
    return Alignment(covered, span, have / total if total else 0.0)


def gate(share: float, settings: Settings) -> float:
    """0: the memory keeps silent; 1: it speaks with all its weight."""
    if share < settings.gate_open:
        return 0.0
    return min(1.0, 0.5 + 0.5 * (share - settings.gate_open) / (settings.gate_full - settings.gate_open))


def _weights(words: Words) -> Floats:
    """What a missing word weighs: a name all that it says, however well it fits ("The capital of" Spain, or France)."""
    return np.minimum(words.information, np.maximum(words.surprisals, words.marks * words.information))


def _missing(words: Words, has: Floats, of: NDArray[np.bool_], wording: float) -> float:
    """The mass of the words that the other side lacks; `wording` is the weight of those that are no names."""
    named = wording + (1 - wording) * np.minimum(1.0, 2 * words.marks)
    return float((_weights(words) ** 2 * (1 - has) * named)[of].sum())


def _torn(words: Words, has: Floats) -> Floats:
    """The mass of each name that is missing right beside a name that is not: parts of one name, torn apart."""
    named = words.marks * (has >= 0.5) * words.information
    joined = words.parts[1:, 1] == words.parts[:-1, 1]
    beside = np.maximum(np.append(named[1:] * joined, 0.0), np.append(0.0, named[:-1] * joined))
    return np.asarray(words.marks * (has < 0.5) * _weights(words) * beside)


def _in_its_place(prompt: Words, fact: Words, covered: Floats) -> bool:
    """Whether the fact says of another name what the prompt says of its last one: "Jan Peel manages" is not answered by
    "Mira Holt manages Jan Peel." The words behind that name, to the prompt's end, stand in the fact behind a name that
    the prompt lacks, and say more than "is" does."""
    named = np.flatnonzero(prompt.marks > 0)
    behind = list(prompt.forms[named[-1] + 1 :]) if len(named) else []
    if not behind or prompt.information[-len(behind) :].max() < PART * fact.information.max(initial=0.0):
        return False
    return any(
        list(fact.forms[i : i + len(behind)]) == behind
        and fact.marks[i - 1] > 0
        and covered[i - 1] <= 0.5
        and (fact.parts[i - 1] == fact.parts[i]).all()
        for i in range(1, len(fact.forms) - len(behind) + 1)
    )


def _asked_of(prompt: Words, fact: Words, same: Floats) -> Floats:
    """How much each of the fact's words is asked for, 0 to 1. Names say whom the whole fact is about; the other words
    that match say which of its clauses is meant, and which word of it: one near to them."""
    wording = 1.0 - np.minimum(1.0, 2 * np.maximum(prompt.marks[:, None], fact.marks))
    told = (same * wording).max(0, initial=0.0) * fact.information**2
    pairs = set(pairwise(prompt.forms))
    # "Zephyr kettle": beside a name, in both, it is a part of it.
    for i, pair in enumerate(pairwise(fact.forms)):
        if pair in pairs and (fact.marks[i] > 0) != (fact.marks[i + 1] > 0):
            told[i if fact.marks[i + 1] > 0 else i + 1] *= NAMED
    places = np.arange(len(told))
    near = np.exp(-np.abs(places[:, None] - places) / REACH)
    sentences, clauses = fact.parts.T
    near *= sentences[:, None] == sentences
    near *= np.where(clauses[:, None] == clauses, 1.0, ANOTHER_CLAUSE)
    asked = near @ told + ONE_WORD
    # "capital city of", where the prompt says "capital of": what stands between is wording, and nobody asks for it.
    for i, j in pairwise(np.flatnonzero(same.max(0, initial=0.0) > 0.5).tolist()):
        if j > i + 1 and (fact.forms[i], fact.forms[j]) in pairs and not fact.marks[i + 1 : j].any():
            asked[i + 1 : j] = 0.0
    return np.asarray(asked / asked.max(initial=ONE_WORD))


def _breaks(fact: Words) -> NDArray[np.bool_]:
    """Before which words an answer ends at the latest: at a new clause, and at two small words, but for those in a name."""
    clauses = fact.parts[:, 1]
    breaks = np.append(True, clauses[1:] != clauses[:-1])[: len(clauses)]
    small = fact.information < PART * fact.information.max(initial=0.0)
    for i in range(1, len(small) - 2):
        if small[i] and small[i + 1] and not (fact.marks[i - 1] and fact.marks[i + 2]):
            breaks[i] = True
    return breaks


def _at_stake(fact: Words, covered: Floats, span: tuple[int, int]) -> NDArray[np.bool_]:
    """The words of the answer's clause, and the names of its sentence that match, whole. Where none of it matches, the
    text's first name: what it is about."""
    if span == (0, 0):
        return np.ones(len(covered), bool)
    sentence, clause = (fact.parts == fact.parts[span[0]]).T
    stake: NDArray[np.bool_] = clause.copy()
    named = fact.marks > 0
    begins = np.diff(named, prepend=False) | (np.diff(fact.parts[:, 1], prepend=0) != 0)
    names = np.cumsum(begins) * named  # the number of each word's name, 0 for none
    matched = set(names[sentence & (covered > 0.5)].tolist()) - {0}
    stake |= np.isin(names, list(matched or set(names[named][:1].tolist())))
    return stake


def heaviest_lack(covered: Floats, mass: Floats, breaks: NDArray[np.bool_]) -> tuple[int, int]:
    """The heaviest contiguous run of lacking words; words without mass inside of it do not break it."""
    best, best_mass = (0, 0), 0.0
    start, end, total = 0, 0, 0.0
    for i, (c, m, ends) in enumerate(zip(covered.tolist(), mass.tolist(), breaks.tolist(), strict=True)):
        if ends:
            total = 0.0
        if not m:
            continue
        if c > 0.5:
            total = 0.0
            continue
        if not total:
            start = i
        end, total = i + 1, total + m
        if total > best_mass:
            best, best_mass = (start, end), total
    return best
