"""Scores of memories for a prompt: late interaction, and the rarity of the matched words.

score = sum over the prompt's words of idf · similarity of the most similar state  (late interaction: Khattab &
        Zaharia 2020) + rarity_weight · rarity of the matched words together · their share²
"""

from collections.abc import Sequence

import numpy as np

from pipeline.config import Settings
from pipeline.ingest.encoding import PromptEncoding
from pipeline.ingest.quantize import cosines
from pipeline.memory.lookup import Lookup, Rows
from pipeline.memory.record import Memory
from pipeline.retrieve.word_arrays import Floats
from pipeline.text.words import terms_of


def scores_of(
    lookup: Lookup,
    size: int,
    prompts: Sequence[PromptEncoding],
    idf: Sequence[Floats],
    rows: Rows,
    memories: Sequence[Memory],
    settings: Settings,
) -> list[Floats]:
    """Scores of the memories for each prompt, nats. rows: of the memories, ascending; idf: [words] of each prompt."""
    interactions = late_interaction(prompts, idf, memories, settings)
    return [
        interaction + settings.rarity_weight * _rarity(lookup, size, prompt, weights, rows, settings)
        for interaction, prompt, weights in zip(interactions, prompts, idf, strict=True)
    ]


def bonus(memory: Memory, least_importance: float, prompt: PromptEncoding, settings: Settings) -> float:
    """The share of its score that a memory gains by its importance, and by its category if the prompt names that."""
    doublings = min(memory.importance - least_importance, settings.importance_doublings)
    share = settings.importance_weight * doublings
    if memory.category and set(terms_of(memory.category)) & set(prompt.terms):
        share += settings.category_bonus
    return share


def late_interaction(
    prompts: Sequence[PromptEncoding], idf: Sequence[Floats], memories: Sequence[Memory], settings: Settings
) -> list[Floats]:
    """Late interaction of each prompt and memory: the sum over the prompt's words of idf times the highest similarity."""
    scores = [np.zeros(len(memories)) for _ in prompts]
    states = [memory.states for memory in memories]
    with_states = [i for i, packed in enumerate(states) if packed]
    if not with_states:
        return scores
    vectors = np.concatenate([prompt.vectors for prompt in prompts])
    counts = [memories[i].words for i in with_states]
    packed = np.frombuffer(b"".join(states), np.uint8).reshape(sum(counts), -1)
    best = cosines(vectors, packed, vectors.shape[1])
    best = np.maximum.reduceat(best, np.cumsum([0, *counts[:-1]]), axis=1)
    bound, starts = settings.alike_from, np.cumsum([len(prompt.terms) for prompt in prompts])[:-1]
    best = np.clip((best - bound) / (1 - bound), 0.0, 1.0)
    for score, weights, similarity in zip(scores, idf, np.split(best, starts), strict=True):
        # A matrix product would add in an order that depends on a memory's place.
        score[with_states] = (weights[:, None] * similarity).sum(0)
    return scores


def _rarity(
    lookup: Lookup, size: int, prompt: PromptEncoding, idf: Floats, rows: Rows, settings: Settings
) -> Floats:
    """[rows] the rarity of the words that each memory shares with the prompt, nats, times their share of the prompt squared.

    Rarity counts the memories that have all these words together, since words of one wording come together: "belongs to the
    organization of" is one sign, not five.
    """
    numbers = zip(prompt.unigram_nll.tolist(), (idf**2).tolist(), strict=True)
    by_term = dict(zip(prompt.terms, numbers, strict=True))
    terms = sorted(by_term)
    unigram_nll, masses = np.array([by_term[term] for term in terms]).T
    sets, set_of_row = np.unique(lookup.term_sets(terms, rows), return_inverse=True)
    together = np.maximum(lookup.counts(terms, sets, settings.postings), 1)
    has = (sets[:, None] >> np.arange(len(terms), dtype=np.uint64) & np.uint64(1)).astype(float)
    rarities = np.minimum(np.log((size + settings.pseudo_facts) / together), (has * unigram_nll).sum(1))
    return np.asarray((rarities * ((has * masses).sum(1) / (masses.sum() or 1.0)) ** 2)[set_of_row])
