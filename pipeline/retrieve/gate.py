"""Gate of a memory: the share of its weight with which it takes part in an answer.

Only this file sets a gate.

The gates open if the head holds it likely enough that any fact answers (weights.Numbers.least). Then the likeliest fact is read,
and with it those that are nearly as likely: the values of a list. Of two facts that state the same thing differently the
newer one is read, also where the head holds the older one much likelier, and the older one is doubted by it. Facts that were
not read have a gate of 0.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from pipeline.retrieve.hit import Hit

MOST_READ = 3
"""Facts that are read together."""
RIVAL = 0.1
"""Share of the likeliest fact's probability from which a newer fact may replace a likelier one."""
Replaces = Callable[[Hit, Hit], bool]
"""Whether the first fact, which is newer, states another value of the same thing as the second."""


def settled(
    hits: Sequence[Hit], answered: float, least: float, beside: float, replaces: Replaces
) -> list[Hit]:
    """The hits with their gates, those that are read first, and likeliest first. answered: the probability that any of them answers.

    least: the gates open from it; beside: see weights.Numbers.
    """
    ranked = sorted(hits, key=lambda hit: (-hit.probability, -hit.score, hit.memory.memory_id))
    if not ranked or answered < least:
        return ranked
    best = ranked[0].probability
    likely = [hit for hit in ranked if hit.probability >= beside * best][:MOST_READ]
    rivals = [hit for hit in ranked if hit.probability >= RIVAL * best]
    doubting = {hit.memory.memory_id: _doubting(hit, rivals, replaces) for hit in likely}
    read = {newest or own for own, newest in doubting.items()}
    read -= {own for own, newest in doubting.items() if newest}
    gate = min(1.0, answered)
    found = [
        replace(hit, gate=gate if name in read else 0.0, doubted_by=doubting.get(name))
        for hit in ranked
        for name in [hit.memory.memory_id]
    ]
    return sorted(found, key=lambda hit: hit.gate == 0.0)


def joined(hits: Sequence[Hit], partner: Hit) -> list[Hit]:
    """The hits, and right after the first the partner that the answer needs, too, with the same gate."""
    first, *others = hits
    name = partner.memory.memory_id
    rest = [hit for hit in others if hit.memory.memory_id != name]
    return [first, replace(partner, gate=first.gate), *rest]


def _doubting(hit: Hit, others: Sequence[Hit], replaces: Replaces) -> str | None:
    """The memory id of the newest fact that replaces the hit's; None if none does."""
    newer = [
        other
        for other in others
        if other.memory.observed_at > hit.memory.observed_at and replaces(other, hit)
    ]
    return max(newer, key=lambda other: other.memory.observed_at).memory.memory_id if newer else None
