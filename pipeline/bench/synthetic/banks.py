"""Banks of any size for the measurements of speed: real encodings, recombined.

The model encodes some tens of facts a second here, so a bank of a million is not encoded. Some facts are, and a variant
is one of them in which each name stands for another one: of what is encoded the wording is real, and each name's prior,
surprisal and state are those of a real name in another fact. One name in eight is a new word, made of the halves of two
names, its state half way between theirs; so the vocabulary grows with the bank as that of real texts does. What is not
real: which names meet in a fact, and that a name's state does not know the fact that it was put into.

Knows encodings and memories; knows no model. The same for the same seed.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from random import Random
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.ingest.encoding import Encoding
from pipeline.ingest.quantize import pack, unit, unpack
from pipeline.memory.bank import memory_id
from pipeline.memory.record import Memory
from pipeline.text.annotate import AnnotatedText
from pipeline.text.words import Word

_MARKS = 24  # bits of a text's mark: of a million texts one in thirty-four is left out for having another's
NEW = 1 / 8  # of the names are new words
BEGUN = datetime(2026, 1, 1, tzinfo=UTC)
EVERY = timedelta(seconds=1)


class _Name(NamedTuple):
    surface: str
    prior: float
    surprisal: float
    vector: NDArray[np.uint8]  # [ceil(d / 4)] packed


def variants(encodings: Sequence[Encoding], namespace: str, seed: int) -> Iterator[Memory]:
    """Endlessly many memories, no two with the same text; the first are the encodings themselves."""
    dice, seen = Random(seed), bytearray(2**_MARKS // 8)
    texts = [AnnotatedText(encoding.text, encoding.priors) for encoding in encodings]
    words = [text.words for text in texts]
    marks = [text.name_scores.tolist() for text in texts]
    names = [
        _Name(encoding.text[w.start : w.end], float(p), float(s), vector)
        for encoding, some, named in zip(encodings, words, marks, strict=True)
        for w, mark, p, s, vector in zip(
            some, named, encoding.priors, encoding.surprisals, encoding.vectors, strict=True
        )
        if mark == 1.0 and len(w.term) > 1
    ]
    for number, encoding in enumerate(encodings):
        _is_new(encoding.text, seen)
        yield _memory(namespace, number, encoding.text, encoding)
    number = len(encodings)
    while names:
        base = dice.randrange(len(encodings))
        text, made = _variant(encodings[base], words[base], marks[base], names, dice)
        if _is_new(text, seen):
            yield _memory(namespace, number, text, made)
            number += 1


def _is_new(text: str, seen: bytearray) -> bool:
    """Whether it was never asked about, and may be so where not: a set of the texts would be as large as what is measured."""
    byte, bit = divmod(int(memory_id("", text)[:8], 16) % 2**_MARKS, 8)
    new = not seen[byte] >> bit & 1
    seen[byte] |= 1 << bit
    return new


def _variant(
    base: Encoding, words: Sequence[Word], marks: Sequence[float], names: Sequence[_Name], dice: Random
) -> tuple[str, Encoding]:
    text, end = [], 0
    priors, surprisals, vectors = base.priors.copy(), base.surprisals.copy(), base.vectors.copy()
    for w, word in enumerate(words):
        surface = base.text[word.start : word.end]
        if marks[w] == 1.0 and len(word.term) > 1:
            name = _new(names, dice) if dice.random() < NEW else dice.choice(names)
            surface, priors[w], surprisals[w], vectors[w] = name
        text += [base.text[end : word.start], surface]
        end = word.end
    whole = "".join([*text, base.text[end:]])
    return whole, Encoding(
        whole, base.encoder_id, base.base_loss, base.recall_loss, base.loss_delta, priors, surprisals, vectors
    )


def _new(names: Sequence[_Name], dice: Random) -> _Name:
    a, b = dice.choice(names), dice.choice(names)
    surface = a.surface[: (len(a.surface) + 1) // 2] + b.surface[len(b.surface) // 2 :].lower()
    states = unpack(np.stack([a.vector, b.vector]), 4 * len(a.vector))
    between = pack(unit(states.sum(0, keepdims=True)))[0]
    return _Name(surface, max(a.prior, b.prior), max(a.surprisal, b.surprisal), between)


def _memory(namespace: str, number: int, text: str, e: Encoding) -> Memory:
    at = BEGUN + number * EVERY
    return Memory(
        memory_id=memory_id(namespace, text), namespace=namespace, text=text, observed_at=at, learned_at=at + EVERY,
        importance=0.0, loss_delta=e.loss_delta, encoder_id=e.encoder_id, priors=e.priors, surprisals=e.surprisals,
        vectors=e.vectors,
    )  # fmt: skip
