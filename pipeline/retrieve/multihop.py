"""Multi-hop retrieval: the second memory that answers a prompt by way of a first one.

    prompt   Where is the company that makes the Quill sensor located?
    first    The Quill sensor is made by Acme Instruments.
    second   Acme Instruments is located in Bonn.

A wrong second memory takes the answer from the right first one. So all of this is required: the prompt has informative words
that the first memory lacks; the second memory has the names in the first one's answer, and such a word of the prompt; it has
no other wording that the prompt lacks; and its own answer comes after all these.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from pipeline.config import TEXT
from pipeline.ingest.encoding import PromptEncoding
from pipeline.memory.bank import Bank
from pipeline.memory.record import Memory
from pipeline.retrieve.alignment import Alignment, align
from pipeline.retrieve.gate import gate_of
from pipeline.retrieve.hit import Hit
from pipeline.retrieve.idf import fact_idf
from pipeline.retrieve.word_arrays import Floats, WordArrays, of_fact
from pipeline.text.annotate import AnnotatedText, annotate
from pipeline.text.words import same_word, terms_of


class First(NamedTuple):
    """A prompt with the memory that was retrieved for it."""

    namespaces: Sequence[str]
    prompt: PromptEncoding
    hit: Hit


class Second(NamedTuple):
    """A memory that may answer, aligned with the rest of the prompt."""

    memory: Memory
    text: AnnotatedText
    idf: Floats  # [words] nats
    alignment: Alignment


class _Left(NamedTuple):
    """The rest of a prompt after the first hop."""

    rest: list[str]  # the prompt's terms that the first memory lacks
    bridge: list[str]  # the names in the first memory's answer
    words: WordArrays  # both


def second_memories(bank: Bank, firsts: Sequence[First]) -> list[Second | None]:
    """For each prompt the memory that answers it by way of the first; None if it does not need two hops."""
    tried: list[tuple[int, _Left, Memory, AnnotatedText, Floats]] = []
    for i, first in enumerate(firsts):
        if left := _left(first):
            tried += [(i, left, *candidate) for candidate in _about(bank, first, left)]
    pairs = [(left.words, of_fact(memory, text, idf)) for _, left, memory, text, idf in tried]
    found: list[Second | None] = [None] * len(firsts)
    for (i, left, memory, text, idf), alignment in zip(tried, align(pairs, bank.settings), strict=True):
        matched, best = np.flatnonzero(alignment.matched).tolist(), found[i]
        asks = any(same_word(term, text.terms[m]) for m in matched for term in left.rest)
        informative = firsts[i].prompt.informative
        if not asks or max(matched) >= alignment.span[0] or _unasked(text, alignment, informative):
            continue
        if gate_of(alignment.opening, bank.settings) and (
            best is None or alignment.opening > best.alignment.opening
        ):
            found[i] = Second(memory, text, idf, alignment)
    return found


def _left(first: First) -> _Left | None:
    """None if the prompt has nothing that needs a second hop."""
    prompt, hit = first.prompt, first.hit
    fact = of_fact(hit.memory, hit.text, hit.idf)
    bridge = [i for i in range(*hit.alignment.span) if fact.name_scores[i] > 0]
    rest = [
        i
        for i, (term, nll) in enumerate(zip(prompt.terms, prompt.unigram_nll.tolist(), strict=True))
        if nll >= prompt.informative
        and not prompt.name_scores[i]
        and not any(same_word(term, other) for other in fact.terms)
    ]
    # "produced by" instead of "developed by" is only another wording, one word for one: a second hop has more words.
    if not bridge or len(rest) < 2 or len(rest) <= _unasked(hit.text, hit.alignment, prompt.informative):
        return None
    lacked, names = [prompt.terms[i] for i in rest], [fact.terms[i] for i in bridge]
    return _Left(
        lacked,
        names,
        WordArrays(
            lacked + names,
            np.concatenate([prompt.unigram_nll[rest], fact.weights[bridge]]).astype(float),
            np.concatenate([prompt.surprisals[rest], fact.surprisals[bridge]]).astype(float),
            np.concatenate([np.zeros(len(rest)), fact.name_scores[bridge]]),
            np.zeros((len(rest) + len(bridge), 2), int),
        ),
    )


def _unasked(text: AnnotatedText, alignment: Alignment, informative: float) -> int:
    """How many of a fact's informative words the prompt lacks, without names and the answer."""
    unasked = ~alignment.matched & (text.name_scores == 0) & (text.unigram_nll >= informative)
    unasked[slice(*alignment.span)] = False
    return int(unasked.sum())


def _about(bank: Bank, first: First, left: _Left) -> Iterator[tuple[Memory, AnnotatedText, Floats]]:
    """Other memories with all names of the bridge and a word of the rest, a bounded number of the newest, and their idf."""
    for namespace in first.namespaces:
        space = bank.namespace(namespace)
        if space is None:
            continue
        rows = space.postings.rows_with_all(left.bridge, bank.settings.postings)[: bank.settings.candidates]
        memories = [space.table.at(row) for row in rows.tolist()]
        others = [memory for memory in memories if memory.memory_id != first.hit.memory.memory_id]
        some = [memory for memory in others if _has_any(memory.text, left.rest)]
        texts = [annotate(memory.text, memory.priors) for memory in some]
        yield from zip(some, texts, fact_idf(space, texts, bank.settings), strict=True)


def _has_any(text: str, terms: Sequence[str]) -> bool:
    """Whether the text has a word like one of these."""
    if text.isascii():  # then a glance is enough to see that it has none
        lower = text.lower()
        terms = [term for term in terms if term[: TEXT.stem] in lower]
    return any(same_word(term, other) for other in (terms_of(text) if terms else ()) for term in terms)
