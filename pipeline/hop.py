"""A prompt that asks through a memory, and the memory that answers it (multi-hop retrieval).

    prompt   Where is the company that makes the Quill sensor located?
    first    The Quill sensor is made by Acme Instruments.
    second   Acme Instruments is located in Bonn.

A wrong second memory takes the answer from the right first one, so every sign is asked for: the prompt says more than the
first memory does; the second is about what the first answers, has words of the prompt that the first lacks, says
nothing besides that the prompt does not ask for, and has its own answer behind all that.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from pipeline.alignment import Alignment, Floats, Words, align
from pipeline.bank import Bank
from pipeline.decision import Memory
from pipeline.encoding import Asked
from pipeline.weights import forms_of, information_of, words_of
from pipeline.words import likeness, split


class Second(NamedTuple):
    """The memory that answers, and how it lies over what is left of the prompt."""

    memory: Memory
    information: Floats  # of its words, nats
    alignment: Alignment


def hop(
    bank: Bank,
    namespaces: Sequence[str],
    asked: Asked,
    first: Memory,
    information: Floats,
    alignment: Alignment,
) -> Second | None:
    """The second memory, if the prompt asks through the first, which is given as it was retrieved."""
    told = words_of(first, information)
    bridge = [i for i in range(*alignment.span) if told.marks[i] > 0]
    rest = [
        i
        for i, (form, prior) in enumerate(zip(asked.forms, asked.priors.tolist(), strict=True))
        if prior >= asked.informative
        and not asked.marks[i]
        and max(map(partial(likeness, form), told.forms), default=0.0) <= 0.5
    ]
    # "produced by" instead of "developed by" is another wording, one word for one: what is asked beyond it is more.
    if not bridge or len(rest) < 2 or len(rest) <= _unasked(first, told, alignment, asked.informative):
        return None
    left = Words(
        [*(asked.forms[i] for i in rest), *(told.forms[i] for i in bridge)],
        np.concatenate([asked.priors[rest], told.information[bridge]]).astype(float),
        np.concatenate([asked.surprisals[rest], told.surprisals[bridge]]).astype(float),
        np.concatenate([np.zeros(len(rest)), told.marks[bridge]]),
        np.zeros((len(rest) + len(bridge), 2), int),
    )
    best: Second | None = None
    for memory, said in _about(
        bank, namespaces, [told.forms[i] for i in bridge], [asked.forms[i] for i in rest]
    ):
        words = words_of(memory, said)
        over = align(left, words, bank.settings)
        has = np.flatnonzero(over.covered > 0.5).tolist()
        asks = any(likeness(asked.forms[i], words.forms[h]) > 0.5 for h in has for i in rest)
        alone = not _unasked(memory, words, over, asked.informative)
        if memory.memory_id == first.memory_id or not asks or not alone or max(has) >= over.span[0]:
            continue
        if over.share >= bank.settings.gate_open and (best is None or over.share > best.alignment.share):
            best = Second(memory, said, over)
    return best


def _unasked(memory: Memory, words: Words, alignment: Alignment, informative: float) -> int:
    """How many of its words, names and its answer apart, say something that the prompt does not have."""
    unasked = (alignment.covered <= 0.5) & (words.marks == 0) & (memory.priors >= informative)
    unasked[slice(*alignment.span)] = False
    return int(unasked.sum())


def _about(
    bank: Bank, namespaces: Sequence[str], forms: Sequence[str], rest: Sequence[str]
) -> Iterator[tuple[Memory, Floats]]:
    """Memories that have all these words and one like the rest's, of the newest a bounded number; and what their words say."""
    for namespace in namespaces:
        index = bank.index(namespace)
        if index is None:
            continue
        for row in index.with_all(forms, bank.settings.postings)[: bank.settings.candidates].tolist():
            memory = bank.get(namespace, index.memory_id(row))
            if memory and any(likeness(r, word.form) > 0.5 for word in split(memory.text) for r in rest):
                size = bank.size(namespace)
                yield memory, information_of(index, size, forms_of(memory), memory.priors, bank.settings)
