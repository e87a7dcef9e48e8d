"""Complement reading: what the fact says and the prompt does not, said at the right moment (the gated fusion).

At every token the answer comes either from the model or from a memory that is being read:

    p = (1 - r) p_model + sum over runs r_i [token is the run's next]

A run is a stretch of a fact's words that the prompt lacks. Where to enter is weighed by what the words say, how much
they surprised the model in the fact, and whether the model could say them now. After each token Bayes says how likely
each run is being read; a run that is said is over, and a memory that has spoken falls (almost) silent. On the final
hidden state this is the change that raises those tokens' logits and no others: where no gate is open, nothing changes.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.retrieval import Retrieved
from pipeline.settings import Settings
from pipeline.words import split


@dataclass(slots=True)
class _Run:
    memory: int
    tokens: tuple[int, ...]
    at: int  # the next token to be said
    weight: float  # the probability that this is being read


class Reading:
    """The memories of one prompt while its answer is made."""

    def __init__(
        self,
        found: Sequence[Retrieved],
        tokenize: Callable[[str], list[int]],
        informative: float,
        settings: Settings,
        context: str,
    ) -> None:
        """informative: nats that a word says at least, to be said; context: the prompt's text, by whose end the first word is given a blank before it or not."""
        self._found = [hit for hit in found if hit.gate > 0]
        self._tokenize, self._informative, self._settings = tokenize, informative, settings
        best = max((hit.score for hit in self._found), default=0.0) or 1.0
        heat = settings.attention_temperature
        shares = [math.exp((hit.score / abs(best) - 1.0) / heat) for hit in self._found]
        self._attention = [share / sum(shares) for share in shares]
        self._spoken = [False] * len(self._found)
        self._runs: list[_Run] = []
        self._offer: list[_Run] = []
        self._context = context[-1:]
        self._said = ""

    @property
    def silent(self) -> bool:
        return not self._found

    def predict(self, logits: Tensor) -> Tensor:
        """Logits [V] float32 with the memories fused in."""
        log_p = torch.log_softmax(logits, -1)
        going = [run for run in self._runs if run.at < len(run.tokens)]
        reading = sum(run.weight for run in going)
        self._offer = going + self._starts(log_p, 1.0 - reading)
        if not self._offer:
            return logits
        mass: dict[int, float] = {}
        for run in self._offer:
            mass[run.tokens[run.at]] = mass.get(run.tokens[run.at], 0.0) + run.weight
        rest = max(1e-6, 1.0 - sum(run.weight for run in self._offer))
        tokens = torch.tensor(list(mass), device=logits.device)
        weights = torch.tensor(list(mass.values()), device=logits.device, dtype=torch.float32)
        self._log_p = log_p
        self._rest = rest
        fused = logits.clone()
        fused[tokens] += torch.log1p(weights / rest * torch.exp(-log_p[tokens]).clamp(max=1e30))
        return fused

    def advance(self, token: int, said: str) -> None:
        """The token that was chosen, and the text of the answer so far."""
        self._said = said
        matching = [run for run in self._offer if run.tokens[run.at] == token]
        self._runs = []
        if not matching:
            return
        mass = sum(run.weight for run in matching)
        p = self._rest * float(torch.exp(self._log_p[token])) + mass
        for run in matching:
            weight = run.weight / p
            if weight < 1e-3:
                continue
            if run.at + 1 == len(run.tokens):
                self._spoken[run.memory] |= weight > 0.5
            else:
                self._runs.append(_Run(run.memory, run.tokens, run.at + 1, weight))

    def _starts(self, log_p: Tensor, free: float) -> list[_Run]:
        """Runs that could be entered now, sharing out what is not being read already."""
        if free < 1e-3:
            return []
        settings, runs = self._settings, []
        said = {word.form for word in split(self._said)}
        before = self._said[-1:] or self._context
        for m, hit in enumerate(self._found):
            weight = (
                free * self._attention[m] * hit.gate * (settings.again if self._spoken[m] else settings.trust)
            )
            entries = []
            for tokens, bias in self._entries(hit, said, before):
                entries.append((tokens, bias + 0.5 * float(log_p[tokens[0]])))
            if not entries:
                continue
            top = max(logit for _, logit in entries)
            total = sum(math.exp(logit - top) for _, logit in entries)
            runs += [_Run(m, tokens, 0, weight * math.exp(logit - top) / total) for tokens, logit in entries]
        return [run for run in runs if run.weight > 1e-4]

    def _entries(self, hit: Retrieved, said: set[str], before: str) -> list[tuple[tuple[int, ...], float]]:
        """(tokens, logit) of each run of words that neither the prompt nor the answer has."""
        text, words, (first, last) = hit.memory.text, split(hit.memory.text), hit.alignment.span
        says = [
            float(prior) >= self._informative or any(c.isdigit() for c in word.form)
            for word, prior in zip(words, hit.memory.priors, strict=True)
        ]
        lacks = [
            c <= 0.5 and word.form not in said
            for word, c in zip(words, hit.alignment.covered.tolist(), strict=True)
        ]
        entries = []
        for i, word in enumerate(words):
            if not lacks[i] or not says[i]:
                continue
            end = i + 1
            if first <= i < last:
                end = last
            else:
                while end < len(words) and lacks[end] and says[end]:
                    end += 1
            run = text[word.start : words[end - 1].end]
            blank = i == 0 or text[word.start - 1].isspace()
            if blank and before and not before.isspace():
                run = " " + run
            surprise = math.log(max(float(hit.memory.surprisals[i]), 0.1))
            bias = 2.0 * math.log(max(float(hit.information[i]), 0.1)) + surprise
            if not first <= i < last:
                bias -= self._settings.outside_span
            if tokens := tuple(self._tokenize(run)):
                entries.append((tokens, bias))
        return entries
