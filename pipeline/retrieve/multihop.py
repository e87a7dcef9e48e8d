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

from pipeline.ingest.encoding import Asked
from pipeline.memory.bank import Bank
from pipeline.memory.record import Memory
from pipeline.retrieve.alignment import Alignment, Floats, Words, align
from pipeline.retrieve.idf import informations_in, words_of
from pipeline.text.words import STEM, same_word, terms_of


class First(NamedTuple):
    """The memory that was retrieved for a prompt, and how it lies over it."""

    namespaces: Sequence[str]
    asked: Asked
    memory: Memory
    information: Floats  # of its words, nats
    alignment: Alignment


class Second(NamedTuple):
    """The memory that answers, and how it lies over what is left of the prompt."""

    memory: Memory
    information: Floats  # of its words, nats
    alignment: Alignment


class _Left(NamedTuple):
    """What a prompt asks beyond the first memory."""

    rest: list[str]  # words that the first memory lacks
    bridge: list[str]  # the names in what it answers
    words: Words  # both


def hop(bank: Bank, firsts: Sequence[First]) -> list[Second | None]:
    """For each prompt the second memory, if it asks through the first."""
    tried: list[tuple[int, _Left, Memory, Floats]] = []
    for i, first in enumerate(firsts):
        if left := _left(first):
            tried += [(i, left, *one) for one in _about(bank, first, left)]
    words = words_of([memory for _, _, memory, _ in tried], [said for _, _, _, said in tried])
    pairs = [(left.words, some) for (_, left, _, _), some in zip(tried, words, strict=True)]
    found: list[Second | None] = [None] * len(firsts)
    for (i, left, memory, said), some, over in zip(tried, words, align(pairs, bank.settings), strict=True):
        has, best = np.flatnonzero(over.covered > 0.5).tolist(), found[i]
        asks = any(same_word(form, some.forms[h]) for h in has for form in left.rest)
        if not asks or max(has) >= over.span[0] or _unasked(memory, some, over, firsts[i].asked.informative):
            continue
        if over.opening >= bank.settings.gate_open and (
            best is None or over.opening > best.alignment.opening
        ):
            found[i] = Second(memory, said, over)
    return found


def _left(first: First) -> _Left | None:
    """None: the prompt does not ask beyond this memory."""
    asked, alignment = first.asked, first.alignment
    [told] = words_of([first.memory], [first.information])
    bridge = [i for i in range(*alignment.span) if told.marks[i] > 0]
    rest = [
        i
        for i, (form, prior) in enumerate(zip(asked.forms, asked.priors.tolist(), strict=True))
        if prior >= asked.informative
        and not asked.marks[i]
        and not any(map(partial(same_word, form), told.forms))
    ]
    # "produced by" instead of "developed by" is another wording, one word for one: what is asked beyond it is more.
    if not bridge or len(rest) < 2 or len(rest) <= _unasked(first.memory, told, alignment, asked.informative):
        return None
    lacked, names = [asked.forms[i] for i in rest], [told.forms[i] for i in bridge]
    return _Left(
        lacked,
        names,
        Words(
            lacked + names,
            np.concatenate([asked.priors[rest], told.information[bridge]]).astype(float),
            np.concatenate([asked.surprisals[rest], told.surprisals[bridge]]).astype(float),
            np.concatenate([np.zeros(len(rest)), told.marks[bridge]]),
            np.zeros((len(rest) + len(bridge), 2), int),
        ),
    )


def _unasked(memory: Memory, words: Words, alignment: Alignment, informative: float) -> int:
    """How many of its words, names and its answer apart, say something that the prompt does not have."""
    unasked = (alignment.covered <= 0.5) & (words.marks == 0) & (memory.priors >= informative)
    unasked[slice(*alignment.span)] = False
    return int(unasked.sum())


def _about(bank: Bank, first: First, left: _Left) -> Iterator[tuple[Memory, Floats]]:
    """Other memories that have all names of the bridge and a word like the rest's, of the newest a bounded number; and
    what their words say."""
    for namespace in first.namespaces:
        index = bank.index(namespace)
        if index is None:
            continue
        rows = index.with_all(left.bridge, bank.settings.postings)[: bank.settings.candidates].tolist()
        memories = [bank.at(namespace, row) for row in rows]
        some = [m for m in memories if m.memory_id != first.memory.memory_id and _has_any(m.text, left.rest)]
        yield from zip(some, informations_in(index, bank.size(namespace), some, bank.settings), strict=True)


def _has_any(text: str, forms: Sequence[str]) -> bool:
    """Whether the text has a word like one of these."""
    if text.isascii():  # then a glance is enough to see that it has none
        lower = text.lower()
        forms = [form for form in forms if form[:STEM] in lower]
    return any(same_word(form, term) for term in (terms_of(text) if forms else ()) for form in forms)
