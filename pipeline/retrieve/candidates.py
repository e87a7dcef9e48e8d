"""Candidates of a prompt: memories that share its heaviest words, or whose pooled states are near."""

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
    """For each prompt its candidates' rows, ascending. idf: of each prompt's words."""
    pooled = [pool(one.vectors, some.astype(np.float32)) for one, some in zip(prompts, idf, strict=True)]
    nearest = space.pooled.nearest(np.stack(pooled), config.candidates)
    for prompt, values, state, near in zip(prompts, idf, pooled, nearest, strict=True):
        masses = dict(zip(prompt.terms, (values**2).tolist(), strict=True))
        count, similarity = (
            config.word_candidates * config.candidates,
            partial(space.pooled.similarity, state),
        )
        yield np.union1d(lookup.heaviest(masses, count, similarity, config.compared_ties), near)
