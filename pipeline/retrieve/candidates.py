"""Candidates of a prompt: memories with its heaviest words, or with the nearest pooled states."""

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np

from pipeline.config import RetrievalConfig
from pipeline.ingest.encoding import PromptEncoding
from pipeline.memory.lookup import Lookup, Rows
from pipeline.memory.namespace import Namespace
from pipeline.memory.pooled import pool
from pipeline.retrieve.word_arrays import Floats


def candidate_rows(
    space: Namespace,
    lookup: Lookup,
    prompts: Sequence[PromptEncoding],
    idf: Sequence[Floats],
    config: RetrievalConfig,
) -> Iterator[Rows]:
    """Rows of each prompt's candidates, ascending. idf: [words] of each prompt."""
    pooled = [pool(prompt.vectors, w.astype(np.float32)) for prompt, w in zip(prompts, idf, strict=True)]
    nearest = space.pooled.nearest(np.stack(pooled), config.candidates)
    count = config.word_candidates * config.candidates
    for prompt, weights, state, near in zip(prompts, idf, pooled, nearest, strict=True):
        masses = dict(zip(prompt.terms, (weights**2).tolist(), strict=True))
        similarity = partial(space.pooled.similarity, state)
        yield np.union1d(lookup.heaviest(masses, count, similarity, config.compared_ties), near)
