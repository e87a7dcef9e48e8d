"""The prompt's words laid over a fact's words: what is asked, what is answered, and does the one belong to the other.

Knows words: what they say among the facts (information), how they surprised the model where they stand (surprisal),
how much they look like names (marks), and how alike their states are. Knows neither models nor memories. Masses are
squares of nats, so that a name outweighs the wording around it.

    prompt   Torben Betts is originally from
    fact     Torben Betts was originally from Munich.
             covered covered  covered         the answer span

The gate is the covered share of what is at stake. A word that is missing weighs by the lesser of its information and
its surprisal ("located" surprises nobody behind "Where is Oslo"), a name by its information; a missing word that is no
name weighs little, for wording differs; a missing name beside a covered one weighs most: "Nissan Skyline" is not "Nissan Skyline GT-R", and
"Perry Benson" is not "Perry Barr".
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.settings import Settings
from pipeline.words import likeness

Floats = NDArray[np.float64]

ONE_WORD = (
    20.0  # nats squared: less than a word of wording says. No more than that is no sign of what is asked for
)
NAMED = 0.3  # what a word that is a part of a name tells of what is asked for
REACH = 4.0  # words, over which a matching word tells less and less of what is asked for
PART = 0.6  # of the most that a word of the fact says: less is a small word


class Words(NamedTuple):
    """One side of an alignment."""

    forms: Sequence[str]
    information: Floats  # [words] nats, among the facts of the bank
    surprisals: Floats  # [words] nats, where they stand
    marks: Floats  # [words] 0 to 1, how much each looks like a name
    clauses: NDArray[np.int64]  # [words] the number of each one's clause


class Alignment(NamedTuple):
    covered: Floats  # [fact's words] how well the prompt has it by its form: 0 to 1
    span: tuple[
        int, int
    ]  # the answer: the heaviest run of words that the prompt lacks; (0, 0) when it lacks none
    share: float  # 0 to 1, how much of what is at stake matches: the gate opens by it


def align(prompt: Words, fact: Words, settings: Settings) -> Alignment:
    same = np.array([[likeness(p, f) for f in fact.forms] for p in prompt.forms]).reshape(
        len(prompt.forms), len(fact.forms)
    )
    has, covered = same.max(1, initial=0.0), same.max(0, initial=0.0)
    span = heaviest_lack(covered, fact.information**2 * _asked_of(prompt, fact, covered), _breaks(fact))
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
    beside = np.maximum(np.append(named[1:], 0.0), np.append(0.0, named[:-1]))
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
        list(fact.forms[i : i + len(behind)]) == behind and fact.marks[i - 1] > 0 and covered[i - 1] <= 0.5
        for i in range(1, len(fact.forms) - len(behind) + 1)
    )


def _asked_of(prompt: Words, fact: Words, covered: Floats) -> Floats:
    """How much each of the fact's words is asked for, 0 to 1. Names say whom the whole fact is about; the other words
    that match say which of its clauses is meant, and which word of it: one near to them."""
    told = covered * fact.information**2 * (1.0 - np.minimum(1.0, 2 * fact.marks))
    pairs = set(pairwise(prompt.forms))
    for i, pair in enumerate(
        pairwise(fact.forms)
    ):  # "Zephyr kettle": beside a name, in both, it is a part of it
        if pair in pairs and (fact.marks[i] > 0) != (fact.marks[i + 1] > 0):
            told[i if fact.marks[i + 1] > 0 else i + 1] *= NAMED
    places = np.arange(len(told))
    near = np.exp(-np.abs(places[:, None] - places) / REACH) * (fact.clauses[:, None] == fact.clauses)
    asked = near @ told + ONE_WORD
    return np.asarray(asked / asked.max(initial=ONE_WORD))


def _breaks(fact: Words) -> NDArray[np.bool_]:
    """Before which words an answer ends at the latest: at a new clause, and at two small words, but for those in a name."""
    breaks = np.append(True, fact.clauses[1:] != fact.clauses[:-1])[: len(fact.clauses)]
    small = fact.information < PART * fact.information.max(initial=0.0)
    for i in range(1, len(small) - 2):
        if small[i] and small[i + 1] and not (fact.marks[i - 1] and fact.marks[i + 2]):
            breaks[i] = True
    return breaks


def _at_stake(fact: Words, covered: Floats, span: tuple[int, int]) -> NDArray[np.bool_]:
    """The words of the answer's clause, and, where no name of it matches, the text's first name: what it is about."""
    if span == (0, 0):
        return np.ones(len(covered), bool)
    clause: NDArray[np.bool_] = fact.clauses == fact.clauses[span[0]]
    if not (clause & (covered > 0.5) & (fact.marks > 0)).any():
        named = np.flatnonzero(fact.marks > 0)
        if len(named):
            after = np.flatnonzero(fact.marks[named[0] :] == 0)
            clause[named[0] : named[0] + (after[0] if len(after) else len(covered))] = True
    return clause


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
