"""Likeness of spelling: how a word that only the prompt has is like one that only the fact has.

"Lindqvell" is not "Lindqvist", and "INC-4741" is not "INC-4471": a prompt with such a word names something else than the fact.
"boards" and "board" are alike, too, but common. So the likeness of two words counts by how rare the commoner of them is.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from rapidfuzz.distance import DamerauLevenshtein
from rapidfuzz.process import cdist

from pipeline.ingest.encoding import PromptEncoding

SPELLING = ("alike_nats", "alike_share", "alike_letters", "alike_name")


def spelling_evidence(
    prompt: PromptEncoding, terms: Sequence[str], unigram_nll: NDArray[np.floating]
) -> list[float]:
    """[SPELLING] of the pair of words with the most nats. terms, unigram_nll: [words] of the fact.

    Likeness times the commoner word's unigram_nll in nats, the likeness (the share of letters that need no edit, by the distance
    of Damerau 1964), the letters of the prompt's word, and its name score; zeros if the fact has all words of the prompt.
    """
    known, asked = set(terms), set(prompt.terms)
    lacking = [i for i, term in enumerate(prompt.terms) if term not in known]
    others = [i for i, term in enumerate(terms) if term not in asked]
    if not lacking or not others:
        return [0.0] * len(SPELLING)
    own, theirs = [prompt.terms[i] for i in lacking], [terms[i] for i in others]
    alike = cdist(own, theirs, scorer=DamerauLevenshtein.normalized_similarity)
    rarity = np.minimum.outer(np.asarray(prompt.unigram_nll)[lacking], np.asarray(unigram_nll)[others])
    nats = alike * rarity
    word, other = np.unravel_index(int(nats.argmax()), nats.shape)
    name = prompt.name_scores[lacking[word]]
    return [float(nats[word, other]), float(alike[word, other]), float(len(own[word])), float(name)]
