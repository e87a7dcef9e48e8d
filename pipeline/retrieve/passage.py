"""Passage of a long fact: the sentences around the one that agrees most with the prompt, which is all that the model reads of it."""

import numpy as np

from pipeline.retrieve.word_arrays import Bools, Floats, Ints
from pipeline.text.annotate import AnnotatedText

WORDS = 60
"""Words of a passage. A fact with no more is read whole."""


def passage(text: AnnotatedText, matched: Bools, idf: Floats) -> str:
    """The best sentence, and those around it that fit; of sentences that agree alike, the first is the best.

    matched: [words] whether the prompt has the word; idf: [words]
    """
    if len(text.words) <= WORDS:
        return text.text
    sentences = np.array([place.sentence for place in text.places])
    agreement = [
        _agreement(text, np.flatnonzero(matched & (sentences == n)), idf) for n in range(sentences[-1] + 1)
    ]
    counts = np.bincount(sentences, minlength=len(agreement))
    begin = end = int(np.argmax(agreement))
    size = counts[begin]
    while True:
        # What follows comes before what precedes: it is more often about the same.
        if end + 1 < len(counts) and size + counts[end + 1] <= WORDS:
            end += 1
            size += counts[end]
        elif begin > 0 and size + counts[begin - 1] <= WORDS:
            begin -= 1
            size += counts[begin]
        else:
            break
    first, last = np.flatnonzero(sentences == begin)[0], np.flatnonzero(sentences == end)[-1]
    following = text.words[last + 1].start if last + 1 < len(text.words) else len(text.text)
    return text.text[text.words[first].start : following].strip()


def _agreement(text: AnnotatedText, words: Ints, idf: Floats) -> float:
    """The sum of the words' idf, each term once."""
    return sum({text.terms[i]: float(idf[i]) for i in words}.values())
