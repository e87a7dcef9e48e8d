"""Gated fusion: two streams of the frozen model, one with the memory, give one next token.

    score(token) = log p_bare + gate · (contrast · (log p_memory - log p_bare) + copy · c(token))

p_bare reads the prompt alone, p_memory the prompt after the facts (context-aware decoding: Shi et al. 2023). What both say
cancels out, so that what the facts change decides. c is the copy path, for words that a small model does not dare to say:
1 for a token of the facts' words that the prompt lacks, and `follow` more where it continues what was copied just
before (an induction head: Olsson et al. 2022). Only tokens that the memory's stream holds possible take part: those within
`plausible` nats of its best one, and those of the copy path within `copied`. The others lose `OUT` nats.

With the gate at 0 the score is log p_bare, and the answer the bare model's, token for token.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from pipeline.model.weights import Numbers

OUT = 30.0  # nats: what an implausible token loses; finite, so that any target has a score
_NEVER = -1e4  # nats


class Fusion:
    """The facts that one answer reads, while it is generated: `fuse` before each token, and `advance` after it."""

    def __init__(
        self,
        gate: float,
        facts: Sequence[Sequence[int]],
        lacking: Sequence[int],
        weights: Numbers,
        none: int | None = None,
    ) -> None:
        """gate: above 0, at most 1; facts: the tokens of each; lacking: the tokens of the facts' words that the prompt lacks.

        none: the token that means that no fact answers, which the gate has decided already.
        """
        self.gate, self._weights, self._none = gate, weights, none
        self._facts = [list(fact) for fact in facts]
        self._lacking = torch.tensor(sorted(set(lacking)), dtype=torch.long)
        self._answer: list[int] = []

    def advance(self, token: int) -> None:
        """Takes the chosen token."""
        self._answer.append(token)

    def fuse(self, bare: Tensor, memory: Tensor) -> Tensor:
        """[V] the scores, from the two streams' log-probabilities, float32 [V]."""
        weights = self._weights
        if self._none is not None and not self._answer:
            memory = memory.index_fill(0, torch.tensor([self._none]), _NEVER).log_softmax(-1)
        best = float(memory.max())
        copy = torch.zeros_like(bare)
        copy[self._lacking] = weights.copy
        if weights.follow and (following := self._following()):
            copy[torch.tensor(following)] += weights.follow
        reach = torch.where(copy > 0, weights.copied, weights.plausible)
        scores = bare + self.gate * (weights.contrast * (memory - bare) + copy)
        return torch.where(memory >= best - reach, scores, scores - self.gate * OUT)

    def _following(self) -> list[int]:
        """The tokens that follow, in a fact, the longest end of the answer that stands there."""
        longest, found = 0, list[int]()
        lacking = set(self._lacking.tolist())
        for fact in self._facts:
            for at in range(1, len(fact)):
                length = 0
                while (
                    length < min(at, len(self._answer)) and fact[at - 1 - length] == self._answer[-1 - length]
                ):
                    length += 1
                if length and fact[at - 1] in lacking and length >= longest:
                    found = [fact[at]] if length > longest else [*found, fact[at]]
                    longest = length
        return found
