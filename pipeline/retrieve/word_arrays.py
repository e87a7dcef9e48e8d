"""Arrays of the words of prompts and facts, the two sides of an alignment, padded for many at a time.

Shapes are written as [pairs, p, f]: prompts of up to p words, facts of up to f. Padding has no weight and equals no word.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.config import TEXT
from pipeline.ingest.encoding import PromptEncoding
from pipeline.memory.record import Memory
from pipeline.text.annotate import AnnotatedText

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

_AT_ONCE = 1 << 18  # numbers in an array: two megabytes, so that they stay in the processor's cache
_EIGHT = 8  # numpy adds eight at a time: rows padded to any multiple have the same sum


class WordArrays(NamedTuple):
    """One side of an alignment: the words of a prompt or a fact."""

    terms: Sequence[str]
    weights: Floats  # [words] nats: see weights_of
    surprisals: Floats  # [words] -log p of each in its text, nats
    name_scores: Floats  # [words] 0 to 1
    places: Ints  # [words, 2] the numbers of its sentence and its clause


class PaddedWords(NamedTuple):
    """Many prompts, or many facts, in rows."""

    terms: Ints  # [pairs, words] each term's number; below 0 is padding
    weights: Floats  # as in WordArrays, and so on
    surprisals: Floats
    name_scores: Floats
    sentences: Ints
    clauses: Ints


def of_prompt(prompt: PromptEncoding, idf: Floats) -> WordArrays:
    scores = np.array(prompt.name_scores, float)
    weights = weights_of(idf, prompt.unigram_nll * (idf > 0), scores)
    return WordArrays(
        prompt.terms, weights, prompt.surprisals.astype(float), scores, np.zeros((len(scores), 2), int)
    )


def of_fact(memory: Memory, text: AnnotatedText, idf: Floats) -> WordArrays:
    weights = weights_of(idf, text.unigram_nll, text.name_scores)
    return WordArrays(
        text.terms, weights, memory.surprisals.astype(float), text.name_scores, text.place_numbers
    )


def weights_of(idf: Floats, unigram_nll: NDArray[np.floating[Any]], name_scores: Floats) -> Floats:
    """[words] nats: how much each word tells about whether prompt and fact belong together.

    Names weigh their unigram_nll, other words their idf: a name in half of the facts does not tell them apart, yet a prompt
    with that name is about them.
    """
    names = is_name(name_scores)
    return np.asarray(idf * (1.0 - names) + unigram_nll * names)


def is_name(name_scores: Floats) -> Floats:
    """0 to 1; other than in the name score, a capital that may only begin a sentence counts in full."""
    return np.asarray(np.minimum(1.0, name_scores / TEXT.sentence_start_score))


def of_like_lengths(pairs: Sequence[tuple[WordArrays, WordArrays]]) -> Iterator[list[int]]:
    """The pairs' indices in groups of similar lengths, so that one long text does not widen the rows of all."""
    lengths = [(_padded(len(fact.terms)), _padded(len(prompt.terms))) for prompt, fact in pairs]
    group: list[int] = []
    p = 0
    for i in sorted(range(len(pairs)), key=lengths.__getitem__):
        f, p = lengths[i][0], max(p, lengths[i][1])
        if group and (len(group) + 1) * f * max(f, p) > _AT_ONCE:
            yield group
            group, p = [], lengths[i][1]
        group.append(i)
    if group:
        yield group


def pad(texts: Sequence[WordArrays], numbers: dict[str, int], padding: int) -> PaddedWords:
    """The words of each text in a row. numbers: the number of each term, to which new terms are added."""
    lengths = np.array([len(text.terms) for text in texts])
    words = np.arange(_padded(int(lengths.max()))) < lengths[:, None]

    def padded(values: NDArray[Any], by: float = 0.0) -> NDArray[Any]:
        rows = np.full(words.shape, by, values.dtype)
        rows[words] = values
        return rows

    terms = [numbers.setdefault(term, len(numbers)) for text in texts for term in text.terms]
    weights, surprisals, name_scores, places = map(np.concatenate, list(zip(*texts, strict=True))[1:])
    return PaddedWords(
        padded(np.array(terms, np.int64), padding),
        *map(padded, (weights, surprisals, name_scores)),
        *(padded(numbers_of, -1) for numbers_of in places.T),
    )


def rows_at_once(numbers_a_row: int) -> int:
    """How many rows of so many numbers are computed at a time."""
    return max(1, _AT_ONCE // numbers_a_row)


def _padded(length: int) -> int:
    return max(_EIGHT, -(-length // _EIGHT) * _EIGHT)
