"""Are two facts about the same subject and relation? Knows words and what they say; knows nothing of memories."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.settings import Settings


def same_relation(
    a: Sequence[str],
    priors_a: NDArray[np.float32],
    b: Sequence[str],
    priors_b: NDArray[np.float32],
    settings: Settings,
) -> float:
    """How alike two facts are that differ in their answer only; 0 when they do not.

    They must begin alike and end alike with one run of other words in between, before which stands at least as much as
    after it (the subject comes before its answer: "Acme is based in Bonn", "Acme is based in Kiel"); and what they share
    must weigh more than that in which they differ. Two runs of other words ("the head of Acme is Li" and "of Zorg is
    Wu") are two subjects.
    """
    head = 0
    while head < min(len(a), len(b)) and a[head] == b[head]:
        head += 1
    tail = 0
    while tail < min(len(a), len(b)) - head and a[-1 - tail] == b[-1 - tail]:
        tail += 1
    middle_a, middle_b = a[head : len(a) - tail], b[head : len(b) - tail]
    if not middle_a or not middle_b or set(middle_a) & set(middle_b):
        return 0.0

    def mass(priors: NDArray[np.float32]) -> float:
        return float((np.where(priors >= settings.informative, priors, 0.0).astype(np.float64) ** 2).sum())

    before, after = mass(priors_a[:head]), mass(priors_a[len(a) - tail :])
    differ = max(mass(priors_a[head : len(a) - tail]), mass(priors_b[head : len(b) - tail]))
    if before < after or before + after <= differ:
        return 0.0
    return (before + after) / (before + after + differ)
