"""What words weigh among a bank's facts: the numbers that retrieval and alignment reckon with. Knows no model."""

from collections.abc import Sequence
from itertools import accumulate, pairwise

import numpy as np
from numpy.typing import NDArray

from pipeline.config import Settings
from pipeline.memory.postings import Index
from pipeline.memory.record import Memory
from pipeline.retrieve.alignment import Floats, Words
from pipeline.text.annotate import annotate


def information_of(
    index: Index, size: int, forms: Sequence[str], priors: NDArray[np.float32], settings: Settings
) -> Floats:
    """What each word says among these facts, nats. A word that the facts use says less than it does elsewhere, never
    more; one use is not counted: being in one fact is no sign of being common."""
    pseudo, prior = settings.pseudo_facts, priors.astype(float)
    others = np.maximum(np.array([index.count(form) for form in forms], float) - 1, 0.0)
    here = np.log((size + pseudo) / (others + pseudo * np.exp(-prior)))
    return np.asarray(np.maximum(np.minimum(here, prior), 0.0))


def informations_in(index: Index, size: int, memories: Sequence[Memory], settings: Settings) -> list[Floats]:
    """What each of the memories' words says among these facts, nats."""
    forms = [form for memory in memories for form in annotate(memory.text, memory.priors).terms]
    priors = np.concatenate([memory.priors for memory in memories] or [np.zeros(0, np.float32)])
    return _parted(information_of(index, size, forms, priors, settings), memories)


def words_of(memories: Sequence[Memory], informations: Sequence[Floats]) -> list[Words]:
    """The memories' words as alignment takes them; informations: what each word says among the facts."""
    if not memories:
        return []
    texts = [annotate(memory.text, memory.priors) for memory in memories]
    priors = np.concatenate([memory.priors for memory in memories])
    surprisals = np.concatenate([memory.surprisals for memory in memories]).astype(float)
    weighed = belonging(
        np.concatenate(informations), priors, np.concatenate([text.name_scores for text in texts])
    )
    return [
        Words(text.terms, says, surprises, text.name_scores, text.place_numbers)
        for text, says, surprises in zip(
            texts, _parted(weighed, memories), _parted(surprisals, memories), strict=True
        )
    ]


def _parted(values: Floats, memories: Sequence[Memory]) -> list[Floats]:
    """The values of all memories' words, by memory."""
    ends = list(accumulate((memory.words for memory in memories), initial=0))
    return [values[start:end] for start, end in pairwise(ends)]


def belonging(information: Floats, priors: np.ndarray, marks: Floats) -> Floats:
    """What a word says about whether prompt and fact belong together. A name that half of the facts have does not tell
    them apart, yet a prompt with that name is about them: names count by what they say elsewhere."""
    named = np.minimum(1.0, 2 * marks)
    return np.asarray(information * (1.0 - named) + priors * named)
