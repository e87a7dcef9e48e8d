"""Memory banks of any size: the encodings of real facts, recombined.

Encoding a million facts takes a model hours. So a thousand are encoded, and a variant is one of them in which
every name is replaced by the name of another fact, with its prior, surprisal and state. One name in eight is
a new word, composed of the halves of two names, with a state half way between theirs, so that the vocabulary
grows with the bank as it does in real texts. Two things are not real: the combinations of names, and the states
of the names, which do not reflect the facts around them. The same seed gives the same memories.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from random import Random
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.ingest.encoding import FactEncoding
from pipeline.ingest.quantize import pack, unit, unpack
from pipeline.memory.bank import memory_id
from pipeline.memory.record import Memory
from pipeline.text.annotate import AnnotatedText
from pipeline.text.words import Word

_HASH_BITS = 24
"""Length of a text's hash: of a million texts, one in thirty-four is left out because its hash was seen before."""
NEW_NAMES = 1 / 8
"""The share of names that are new words."""
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
EVERY = timedelta(seconds=1)


class _Name(NamedTuple):
    surface: str
    prior: float
    surprisal: float
    vector: NDArray[np.uint8]  # [ceil(d / 4)] packed


def variants(encodings: Sequence[FactEncoding], namespace: str, seed: int) -> Iterator[Memory]:
    """Yields memories without end, no two with the same text; the first ones are the encodings themselves."""
    dice, seen = Random(seed), bytearray(2**_HASH_BITS // 8)
    texts = [AnnotatedText(encoding.text, encoding.priors) for encoding in encodings]
    words = [text.words for text in texts]
    name_scores = [text.name_scores.tolist() for text in texts]
    names = [
        _Name(encoding.text[w.start : w.end], float(p), float(s), vector)
        for encoding, own_words, scores in zip(encodings, words, name_scores, strict=True)
        for w, score, p, s, vector in zip(
            own_words, scores, encoding.priors, encoding.surprisals, encoding.vectors, strict=True
        )
        if score == 1.0 and len(w.term) > 1
    ]
    for number, encoding in enumerate(encodings):
        _is_new(encoding.text, seen)
        yield _memory(namespace, number, encoding.text, encoding)
    number = len(encodings)
    while names:
        base = dice.randrange(len(encodings))
        text, encoding = _variant(encodings[base], words[base], name_scores[base], names, dice)
        if _is_new(text, seen):
            yield _memory(namespace, number, text, encoding)
            number += 1


def _is_new(text: str, seen: bytearray) -> bool:
    """Whether the text's hash is new. A set of the texts would be as large as what is measured."""
    byte, bit = divmod(int(memory_id("", text)[:8], 16) % 2**_HASH_BITS, 8)
    new = not seen[byte] >> bit & 1
    seen[byte] |= 1 << bit
    return new


def _variant(
    base: FactEncoding,
    words: Sequence[Word],
    name_scores: Sequence[float],
    names: Sequence[_Name],
    dice: Random,
) -> tuple[str, FactEncoding]:
    text, end = [], 0
    priors, surprisals, vectors = base.priors.copy(), base.surprisals.copy(), base.vectors.copy()
    for w, word in enumerate(words):
        surface = base.text[word.start : word.end]
        if name_scores[w] == 1.0 and len(word.term) > 1:
            name = _new(names, dice) if dice.random() < NEW_NAMES else dice.choice(names)
            surface, priors[w], surprisals[w], vectors[w] = name
        text += [base.text[end : word.start], surface]
        end = word.end
    whole = "".join([*text, base.text[end:]])
    return whole, FactEncoding(
        whole, base.encoder_id, base.base_loss, base.recall_loss, base.loss_delta, priors, surprisals, vectors
    )


def _new(names: Sequence[_Name], dice: Random) -> _Name:
    a, b = dice.choice(names), dice.choice(names)
    surface = a.surface[: (len(a.surface) + 1) // 2] + b.surface[len(b.surface) // 2 :].lower()
    states = unpack(np.stack([a.vector, b.vector]), 4 * len(a.vector))
    between = pack(unit(states.sum(0, keepdims=True)))[0]
    return _Name(surface, max(a.prior, b.prior), max(a.surprisal, b.surprisal), between)


def _memory(namespace: str, number: int, text: str, e: FactEncoding) -> Memory:
    at = BEGIN + number * EVERY
    return Memory(
        memory_id=memory_id(namespace, text), namespace=namespace, text=text, observed_at=at, learned_at=at + EVERY,
        importance=0.0, loss_delta=e.loss_delta, encoder_id=e.encoder_id, priors=e.priors, surprisals=e.surprisals,
        vectors=e.vectors,
    )  # fmt: skip
