"""Word frequencies from a tokenizer's vocabulary: the surprisal of a word before any fact is known.

A BPE vocabulary is in the order in which its merges were learned, so a token's rank r is its frequency rank, and by
Zipf's law p = 1 / (r ln V). So every worker with the same model has the same frequencies, even before the first fact.
"""

import math
from collections.abc import Callable, Mapping
from functools import lru_cache

from pipeline.config import TEXT
from pipeline.text.words import is_unspaced

_CACHED = 65_536  # words: more than a vocabulary has, about 10 MB


class Frequencies:
    """Unigram negative log-likelihoods of words, in nats."""

    def __init__(self, vocabulary: Mapping[str, int], tokenize: Callable[[str], list[int]]) -> None:
        """vocabulary: token to id; tokenize: text to ids, with nothing added."""
        merged = sorted(
            index for token, index in vocabulary.items() if len(token) > 1 and not token.startswith("<")
        )
        self._rank = {index: rank for rank, index in enumerate(merged, start=1)}
        self._size = max(2, len(merged))
        self._tokenize = tokenize
        self._cached = lru_cache(maxsize=_CACHED)(self._unigram_nll)
        self.max_nll = math.log(self._size * math.log(self._size))
        """Nats: the most that a word can have."""

    def unigram_nll(self, word: str) -> float:
        """-log p(word), nats: about 2 for the commonest word, 13 for one that is not a single token."""
        return self._cached(word)

    def is_commoner_lowercase(self, word: str) -> bool:
        """Whether the tokenizer knows the word better without its capital: then a capital only begins a sentence."""
        return self._of_token(" " + word.lower()) < self._of_token(" " + word)

    def _unigram_nll(self, word: str) -> float:
        return min(self._of_token(" " + form) for form in {word, word.lower()})

    def _of_token(self, text: str) -> float:
        ids = self._tokenize(text)
        if len(ids) == 1 and ids[0] in self._rank:
            return math.log(self._rank[ids[0]] * math.log(self._size))
        if len(text) == 2 and not is_unspaced(text[1]):
            return -math.log(TEXT.symbol_frequency)
        return self.max_nll
