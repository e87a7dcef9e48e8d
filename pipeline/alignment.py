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
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.settings import Settings
from pipeline.words import likeness

Floats = NDArray[np.float64]


class Words(NamedTuple):
    """One side of an alignment."""

    forms: Sequence[str]
    information: Floats  # [words] nats, among the facts of the bank
    surprisals: Floats  # [words] nats, where they stand
    marks: Floats  # [words] 0 to 1, how much each looks like a name


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
    span = heaviest_lack(covered, fact.information**2)
    beside = np.ones(len(covered), bool)
    beside[span[0] : span[1]] = False
    masses = prompt.information**2 * has
    have = float(masses.sum())
    # Other wording is forgiven around a name that matches, not where wording is all that does.
    names = min(1.0, 2 * float((masses * prompt.marks).sum()) / have) if have else 0.0
    wording = 1.0 - names * (1.0 - settings.wording_weight)
    rest = settings.rest_weight * _missing(prompt, has, np.ones(len(has), bool), wording)
    lack = _missing(fact, covered, beside, wording)
    torn = settings.torn_weight * (_torn(prompt, has) + _torn(fact, covered))
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


def _torn(words: Words, has: Floats) -> float:
    """The mass of the names that are missing right beside a name that is not: parts of one name, torn apart."""
    named = words.marks * (has >= 0.5) * words.information
    beside = np.maximum(np.append(named[1:], 0.0), np.append(0.0, named[:-1]))
    return float((words.marks * (has < 0.5) * _weights(words) * beside).sum())


def heaviest_lack(covered: Floats, mass: Floats) -> tuple[int, int]:
    """The heaviest contiguous run of lacking words; words without mass inside of it do not break it."""
    best, best_mass = (0, 0), 0.0
    start, end, total = 0, 0, 0.0
    for i, (c, m) in enumerate(zip(covered.tolist(), mass.tolist(), strict=True)):
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
