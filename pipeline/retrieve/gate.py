"""Gate of a memory: the share of its weight with which it takes part in an answer.

Only this file computes, closes or changes a gate.

A gate opens by the matching share (alignment.py). It closes again for a memory that is not among the best, that a newer one
contradicts, or that is only the first hop to another one.
"""

from collections.abc import Sequence
from dataclasses import replace

from pipeline.config import GateConfig, Settings
from pipeline.retrieve.contradictions import contradicted, outdated
from pipeline.retrieve.hit import Hit


def gate_of(opening: float, config: GateConfig) -> float:
    """The gate for a matching share: 0 below `gate_open`, from there linear to 1 at `gate_full`."""
    if opening < config.gate_open:
        return 0.0
    least, reached = config.gate_least, (opening - config.gate_open) / (config.gate_full - config.gate_open)
    return min(1.0, least + (1.0 - least) * reached)


def settled(hits: Sequence[Hit], k: int, settings: Settings) -> list[Hit]:
    """The hits with their final gates, best first: the k best keep theirs, unless a newer memory contradicts them.

    `answerable` is set for all hits with an open gate, except outdated ones.
    """
    old = outdated(hits, settings)
    hits = [
        replace(hit, answerable=hit.gate > 0 and not is_old) for hit, is_old in zip(hits, old, strict=True)
    ]
    closes = [*contradicted(hits[:k], settings), *[True] * len(hits[k:])]
    return [replace(hit, gate=0.0) if is_shut else hit for hit, is_shut in zip(hits, closes, strict=True)]


def closed(hit: Hit) -> Hit:
    """The hit of a memory that may neither take part nor be chosen."""
    return replace(hit, gate=0.0, answerable=False)


def gate_of_chosen(hits: Sequence[Hit]) -> float:
    """The gate of the memory that the model chose for the answer: the widest of all hits."""
    return max(hit.gate for hit in hits)


def only_chosen(hits: Sequence[Hit], chosen: int) -> list[Hit]:
    """The same hits: the chosen one has the gate `gate_of_chosen`, all others a closed one. chosen: its index."""
    gate = gate_of_chosen(hits)
    return [replace(hit, gate=gate if n == chosen else 0.0) for n, hit in enumerate(hits)]
