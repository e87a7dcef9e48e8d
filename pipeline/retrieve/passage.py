"""Passage of a long fact: all that the model reads of it.

The first sentence, which mostly states what the text is about, and the sentences around the one that agrees most with the prompt.
"""

import numpy as np

from pipeline.retrieve.word_arrays import Bools, Floats, Ints
from pipeline.text.annotate import AnnotatedText

LONG = 60
"""Words: a fact with no more is read whole."""
WORDS = 30
"""Words of the first sentence at most, and of the others together, unless the best one alone has more."""


def passage(text: AnnotatedText, matched: Bools, idf: Floats) -> str:
    """The first sentence, the best one, and those around this that fit; of sentences that agree alike, the first is the best.

    matched: [words] whether the prompt has the word; idf: [words]
    """
    if len(text.words) <= LONG:
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
    found = _between(text, int(first), int(last) + 1)
    return found if begin == 0 or counts[0] > WORDS else f"{_between(text, 0, int(counts[0]))} {found}"


def _between(text: AnnotatedText, first: int, end: int) -> str:
    """The words from `first` to before `end`, with the punctuation that follows them."""
    following = text.words[end].start if end < len(text.words) else len(text.text)
    return text.text[text.words[first].start : following].rstrip(" \n([{")


def _agreement(text: AnnotatedText, words: Ints, idf: Floats) -> float:
    """The sum of the words' idf, each term once."""
    return sum({text.terms[i]: float(idf[i]) for i in words}.values())
