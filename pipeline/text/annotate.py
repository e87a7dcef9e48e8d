"""Annotation of one text: its words, names and clauses, and how rare each word is.

Made once per text and passed on, so that no text is split twice. A property is computed when it is first read.
"""

from dataclasses import dataclass, field
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from pipeline.text.clauses import Place, places
from pipeline.text.names import continues_previous, has_digit, name_scores
from pipeline.text.words import Word, split

_CACHED = 4096  # facts: four batches of 64 prompts that align 16 facts each; about 5 kB a fact, 20 MB in all


@dataclass(frozen=True, eq=False)
class AnnotatedText:
    """All lists and arrays have one entry a word. They are shared: change none of them."""

    text: str
    unigram_nll: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    """[words] nats; empty where it is not known."""

    @cached_property
    def words(self) -> list[Word]:
        return split(self.text)

    @cached_property
    def terms(self) -> list[str]:
        return [word.term for word in self.words]

    @cached_property
    def name_scores(self) -> NDArray[np.float64]:
        """0 to 1: how much each word looks like a name or a number. See names.name_scores."""
        most = max(float(self.unigram_nll.max(initial=0.0)), 1e-9)
        shares = [float(nll) / most for nll in self.unigram_nll] or [0.0] * len(self.words)
        scores = np.array(name_scores(self.text, self.words, shares), np.float64)
        scores.setflags(write=False)
        return scores

    @cached_property
    def places(self) -> list[Place]:
        """The sentence and the clause of each word."""
        return places(self.text, self.words)

    @cached_property
    def place_numbers(self) -> NDArray[np.int64]:
        """[words, 2] the same: the numbers of each word's sentence and clause."""
        numbers = np.array(self.places, np.int64).reshape(len(self.words), 2)
        numbers.setflags(write=False)
        return numbers

    @cached_property
    def continues(self) -> list[bool]:
        """Whether each word continues the one before it ("Vesk River", "5,120"). See names.continues_previous."""
        return continues_previous(self.text, self.words, self.name_scores.tolist())

    def informative(self, least_nll: float) -> list[bool]:
        """Whether each word says enough to be an answer, or part of one: `least_nll` nats at least, or a number."""
        return [
            float(nll) >= least_nll or has_digit(term)
            for term, nll in zip(self.terms, self.unigram_nll, strict=True)
        ]


def annotate(text: str, unigram_nll: NDArray[np.float32]) -> AnnotatedText:
    """A fact's text, annotated. Many prompts concern the same facts, so the latest annotations are cached."""
    return _annotated(text, unigram_nll.tobytes())


@lru_cache(maxsize=_CACHED)
def _annotated(text: str, unigram_nll: bytes) -> AnnotatedText:
    return AnnotatedText(text, np.frombuffer(unigram_nll, np.float32))
