"""Likeness of spelling: how a word that only the prompt has is like one that only the fact has.

"Lindqvell" is not "Lindqvist", and "INC-4741" is not "INC-4471": a prompt with such a word names something else than the fact.
"boards" and "board" are alike, too, but common. So the likeness of two words counts by how rare the commoner of them is.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rapidfuzz.distance import DamerauLevenshtein
from rapidfuzz.process import cdist


class Alike(NamedTuple):
    """The pair of words with the most nats, one of each text; zeros where a text has no word that the other lacks."""

    nats: float = 0.0  # the share of letters, times the commoner word's unigram_nll
    share: float = 0.0  # of letters that need no edit, by the distance of Damerau 1964
    letters: float = 0.0  # of the first text's word
    word: int = -1  # its place in the first text


def most_alike(
    terms: Sequence[str],
    unigram_nll: NDArray[np.floating[Any]],
    other_terms: Sequence[str],
    other_unigram_nll: NDArray[np.floating[Any]],
) -> Alike:
    """The pair of most nats among the words that only one of two texts has. unigram_nll: [words] nats."""
    known, asked = set(other_terms), set(terms)
    lacking = [i for i, term in enumerate(terms) if term not in known]
    others = [i for i, term in enumerate(other_terms) if term not in asked]
    if not lacking or not others:
        return Alike()
    own, theirs = [terms[i] for i in lacking], [other_terms[i] for i in others]
    shares = cdist(own, theirs, scorer=DamerauLevenshtein.normalized_similarity)
    nats = shares * np.minimum.outer(unigram_nll[lacking], other_unigram_nll[others])
    word, other = divmod(int(nats.argmax()), len(others))
    return Alike(float(nats[word, other]), float(shares[word, other]), float(len(own[word])), lacking[word])
