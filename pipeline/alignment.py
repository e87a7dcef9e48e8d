"""The prompt's words laid over a fact's words: what is asked, what is answered, and does the one belong to the other.

Knows words and what they say (nats); knows neither models nor memories. Masses are squares of information, so that a
name outweighs the wording around it.

    prompt   Torben Betts is originally from
    fact     Torben Betts was originally from Munich.
             covered covered  covered         the answer span
"""

from collections.abc import Sequence
from typing import NamedTuple

from pipeline.settings import Settings
from pipeline.words import likeness


class Alignment(NamedTuple):
    covered: list[float]  # for each word of the fact, how well the prompt has it: 0 to 1
    span: tuple[
        int, int
    ]  # the answer: the heaviest run of words that the prompt lacks; (0, 0) when it lacks none
    score: float  # nats squared
    share: float  # 0 to 1, how much of what is at stake matches: the gate opens by it


def align(
    prompt: Sequence[tuple[str, float]], fact: Sequence[tuple[str, float]], settings: Settings
) -> Alignment:
    """prompt, fact: (form, information in nats) of each word; 0 for one that says nothing."""
    forms = {form for form, _ in prompt}
    covered = [
        1.0 if form in forms else max((likeness(form, other) for other in forms), default=0.0)
        for form, _ in fact
    ]
    mass = [info * info for _, info in fact]
    span = _heaviest_lack(covered, mass)
    have = sum(c * m for c, m in zip(covered, mass, strict=True))
    lack = sum(
        (1 - c) * m for i, (c, m) in enumerate(zip(covered, mass, strict=True)) if not span[0] <= i < span[1]
    )
    known = [form for form, _ in fact]
    rest = 0.0
    for form, info in dict(prompt).items():
        if info and form not in known:
            rest += info * info * (1 - max((likeness(form, other) for other in known), default=0.0))
    rest *= settings.rest_weight
    total = have + lack + rest
    return Alignment(covered, span, have - lack - rest, have / total if total else 0.0)


def gate(share: float, settings: Settings) -> float:
    """0: the memory keeps silent; 1: it speaks with all its weight."""
    if share < settings.gate_open:
        return 0.0
    return min(1.0, 0.5 + 0.5 * (share - settings.gate_open) / (settings.gate_full - settings.gate_open))


def _heaviest_lack(covered: Sequence[float], mass: Sequence[float]) -> tuple[int, int]:
    """The heaviest contiguous run of lacking words; words without mass inside of it do not break it."""
    best, best_mass = (0, 0), 0.0
    start, end, total = 0, 0, 0.0
    for i, (c, m) in enumerate(zip(covered, mass, strict=True)):
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
