"""What a sentence of a conversation tells the frozen model: the sum of its words' surprisals, in nats.

The loss delta is a mean over a fact's answer, and as high for "Callum would love to" as for a telephone number. The sum tells
small talk from what is worth a memory (docs/assistant.md has the figures). Only the sentence's own words count, not the name and
the dates that were put in, nor the sentence before it.
"""

import numpy as np
from numpy.typing import NDArray

from pipeline.text.words import terms_of


def information(said: str, text: str, surprisals: NDArray[np.float32]) -> float:
    """Nats that the words of a sentence tell within its fact. surprisals: [words of the text]"""
    own, terms = terms_of(said), terms_of(text)
    known = set(own)
    kept = [i for i, term in enumerate(terms) if term in known][-len(own) :]
    return float(surprisals[kept].sum(dtype=np.float64))


def fitted(informations: NDArray[np.float64], worth: NDArray[np.bool_]) -> float:
    """The threshold that keeps what is worth it and leaves out the rest, where a loss counts `LOSS` times a needless memory.

    Of equally good thresholds the middle one.
    """
    values = np.unique(informations)
    between = (values[1:] + values[:-1]) / 2
    gains = [
        LOSS * float((informations[worth] >= t).mean()) - float((informations[~worth] >= t).mean())
        for t in between
    ]
    best = [t for t, gain in zip(between, gains, strict=True) if gain >= max(gains) - 1e-9]
    return float(best[len(best) // 2])


LOSS = 2.0
"""A needless memory is seldom asked for, and a lost one is never found."""
