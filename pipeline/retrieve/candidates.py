"""Candidates of a prompt: memories that share its heaviest words, or whose pooled states are near."""

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np

from pipeline.config import Settings
from pipeline.ingest.encoding import Asked
from pipeline.memory.bank import Bank
from pipeline.memory.lookup import Lookup, Rows
from pipeline.memory.postings import NO_STATES, Index, Stated, pool
from pipeline.retrieve.idf import Floats


def candidate_rows(
    bank: Bank, namespace: str, index: Index, lookup: Lookup, prompts: Sequence[Asked], idf: Sequence[Floats]
) -> Iterator[Rows]:
    """For each prompt its candidates' rows, ascending. idf: of each prompt's words."""
    settings: Settings = bank.settings

    def stated(memory_id: str) -> Stated:
        memory = bank.get(namespace, memory_id)
        return (memory.vectors, memory.priors) if memory else NO_STATES

    pooled = [pool(one.vectors, some.astype(np.float32)) for one, some in zip(prompts, idf, strict=True)]
    nearest = index.nearest(np.stack(pooled), settings.candidates, stated)
    for prompt, values, state, near in zip(prompts, idf, pooled, nearest, strict=True):
        masses = dict(zip(prompt.forms, (values**2).tolist(), strict=True))
        count = settings.word_candidates * settings.candidates
        yield np.union1d(lookup.sharing(masses, count, partial(index.nearness, state)), near)
