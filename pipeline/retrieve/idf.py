"""Inverse document frequency of words among memories, with the tokenizer's frequencies as prior."""

from collections.abc import Sequence
from itertools import accumulate, pairwise

import numpy as np
from numpy.typing import NDArray

from pipeline.config import IdfConfig
from pipeline.ingest.encoding import PromptEncoding
from pipeline.memory.namespace import Namespace
from pipeline.retrieve.word_arrays import Floats
from pipeline.text.annotate import AnnotatedText


def prompt_idf(space: Namespace, prompts: Sequence[PromptEncoding], config: IdfConfig) -> list[Floats]:
    """[words] the idf of each prompt's words, nats. Of a repeated word only the last place counts; the others have 0."""
    idf = _idf(space, [one.terms for one in prompts], [one.unigram_nll for one in prompts], config)
    for prompt, values in zip(prompts, idf, strict=True):
        values *= [term not in prompt.terms[i + 1 :] for i, term in enumerate(prompt.terms)]
    return idf


def fact_idf(space: Namespace, facts: Sequence[AnnotatedText], config: IdfConfig) -> list[Floats]:
    """[words] the idf of each fact's words, nats."""
    return _idf(space, [fact.terms for fact in facts], [fact.unigram_nll for fact in facts], config)


def _idf(
    space: Namespace,
    terms: Sequence[Sequence[str]],
    unigram_nll: Sequence[NDArray[np.float32]],
    config: IdfConfig,
) -> list[Floats]:
    """[words] of each text. The memories' counts only lower a word's unigram_nll.

    The first memory with a word is not counted, since one use does not make a word common.
    """
    if not terms:
        return []
    pseudo, prior = config.pseudo_facts, np.concatenate(unigram_nll).astype(float)
    others = np.maximum(
        np.array([space.postings.count(term) for text in terms for term in text], float) - 1, 0.0
    )
    here = np.log((space.size + pseudo) / (others + pseudo * np.exp(-prior)))
    idf = np.maximum(np.minimum(here, prior), 0.0)
    ends = accumulate(map(len, terms), initial=0)
    return [idf[start:end] for start, end in pairwise(ends)]
