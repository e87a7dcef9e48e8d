"""Importance of memories: how it grows, how it decays, and which memory a full namespace evicts.

A memory's importance is the sum of its weights (learned, reinforced, used), each of which halves after every half-life.
The stored importance is

    stored = log2(importance at time t) + t / half-life        t: days since 1970

It does not change while time passes: all importances halve at the same rate, so their order stays, and none has to be
decayed. `decayed` turns it into the importance at a moment.
"""

import math
from datetime import datetime

import numpy as np

from pipeline.config import DECISIONS
from pipeline.memory.namespace import Namespace
from pipeline.memory.record import Memory

_DAY = 86_400  # seconds


def learned_weight(loss_delta: float) -> float:
    """The weight of a new memory: 1, plus its loss delta in nats per token, at most 8."""
    return DECISIONS.learned_weight + min(max(loss_delta, 0.0), DECISIONS.most_loss_delta)


def grown(stored: float | None, weight: float, at: datetime, half_life_days: float) -> float:
    """The stored importance of a memory (None: a new one) after it gained `weight` at the time `at`."""
    gained = math.log2(max(weight, 1e-6)) + _half_lives(at, half_life_days)
    if stored is not None:
        low, high = sorted((stored, gained))
        gained = high + math.log2(1 + 2.0 ** max(low - high, -60))
    return as_float32(gained)


def decayed(stored: float, now: datetime, half_life_days: float) -> float:
    """The importance at `now`: 5 right after a fact with a loss delta of 4 was learned, 2.5 a half-life later.

    In SQL: 2 ** (importance - epoch(now) / 86400 / half_life_days).
    """
    return float(2.0 ** (stored - _half_lives(now, half_life_days)))


def memory_to_evict(space: Namespace, category: str | None, capacity: int) -> Memory | None:
    """The memory that a full namespace loses for a new one of `category`: the least important of the largest category.

    So a category that floods the namespace evicts its own memories only. None if the namespace is not full.
    """
    return space.least_important(category) if space.size >= capacity else None


def as_float32(value: float) -> float:
    """The number rounded to the history's 32 bits, so that a fold leads to the same memory."""
    return float(np.float32(value))


def _half_lives(at: datetime, half_life_days: float) -> float:
    return at.timestamp() / (half_life_days * _DAY)
