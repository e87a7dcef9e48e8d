"""Worth of a sentence of a conversation: by how much its rare words exceed common ones, in nats.

How rare a word is, the frozen model's own vocabulary tells. The loss delta is as high for "I would love to" as for a telephone
number, and the sum of the words' surprisals mostly tells how long a sentence is: docs/assistant.md has the figures. Only the
sentence's own words count, not the name and the dates that were put in, nor the sentence before it.
"""

import numpy as np
from numpy.typing import NDArray

from pipeline.config import TEXT
from pipeline.text.names import has_digit
from pipeline.text.words import terms_of

LOSS = 2.0
"""How many needless memories one lost fact outweighs, as shares: a needless one is seldom read, a lost one never found. Set."""


def worth(said: str, text: str, unigram_nll: NDArray[np.float32], most: float) -> float:
    """Nats; a number is as rare as can be.

    said: the sentence; text: its fact; unigram_nll: [words of the text]; most: the largest possible unigram_nll.
    """
    own = terms_of(said)
    known, rare = set(own), TEXT.rare_from * most
    words = [
        (term, float(nll)) for term, nll in zip(terms_of(text), unigram_nll, strict=True) if term in known
    ]
    return sum(max(0.0, (most if has_digit(term) else nll) - rare) for term, nll in words[-len(own) :])


def fitted(values: NDArray[np.float64], kept: NDArray[np.bool_]) -> float:
    """The threshold that best parts sentences that should be kept from others; of equally good ones the middle one."""
    distinct = np.unique(values)
    between = (distinct[1:] + distinct[:-1]) / 2
    gains = [LOSS * float((values[kept] >= t).mean()) - float((values[~kept] >= t).mean()) for t in between]
    best = [t for t, gain in zip(between, gains, strict=True) if gain >= max(gains) - 1e-9]
    return float(best[len(best) // 2])
