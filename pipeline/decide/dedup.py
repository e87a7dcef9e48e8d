"""Are two facts about the same subject and relation? Knows words and what they say; knows nothing of memories."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

PART = 0.6  # of the most that a word of either fact says: less is wording
OUTWEIGHS = 1.5  # times the answers' mass is what the two share, at least


def same_relation(
    a: Sequence[str],
    priors_a: NDArray[np.float32],
    marks_a: Sequence[float],
    b: Sequence[str],
    priors_b: NDArray[np.float32],
) -> float:
    """How alike two facts are that differ in their answer only; 0 when they do not.

    They begin alike, and end in other words ("Acme is based in Bonn.", "Acme is based in Kiel."); behind these only
    wording may be shared, and what they share must outweigh that in which they differ. Where they part within a name
    ("Acme, the maker of the Honda Jazz", "… of the Honda Civic") they are two facts, as all other pairs are: a
    wrong verdict here loses a memory, a missed one costs nothing, for of two memories that answer alike the newer does.
    """
    head = 0
    while head < min(len(a), len(b)) and a[head] == b[head]:
        head += 1
    tail = 0
    while tail < min(len(a), len(b)) - head and a[-1 - tail] == b[-1 - tail]:
        tail += 1
    if 0 < head < len(a) and marks_a[head - 1] and marks_a[head] and _is_name(a[head - 1]):
        return 0.0
    middle_a, middle_b = a[head : len(a) - tail], b[head : len(b) - tail]
    if not middle_a or not middle_b or set(middle_a) & set(middle_b):
        return 0.0
    least = PART * max(float(priors_a.max()), float(priors_b.max()))

    def mass(priors: NDArray[np.float32]) -> float:
        return float((np.where(priors >= least, priors, 0.0).astype(np.float64) ** 2).sum())

    shared, behind = mass(priors_a[:head]), mass(priors_a[len(a) - tail :])
    differ = max(mass(priors_a[head : len(a) - tail]), mass(priors_b[head : len(b) - tail]))
    if behind > 0 or shared < OUTWEIGHS * differ:
        return 0.0
    return shared / (shared + differ) if shared else 0.0


def common(priors: NDArray[np.float32]) -> int:
    """How many of a fact's first words another one must have, to be alike or the same at all: up to the first word that
    counts, for two facts that share none of these share nothing that outweighs their answers. All, if none counts."""
    counting = priors >= PART * float(priors.max(initial=0.0))
    return int(counting.argmax()) + 1 if counting.any() else len(priors)


def _is_name(form: str) -> bool:
    """A number or a letter that two facts share is no name: gate B 12, gate B 14."""
    return len(form) > 1 and not any(c.isdigit() for c in form)
