"""Gated fusion: copying from memories, mixed into the model's distribution of the next token.

    p(token) = (1 - λ)·p_LM(token) + λ·p_copy(token)

A copy mechanism (pointer-generator: See et al. 2017) with the interpolation of kNN-LM (λ: Khandelwal et al. 2020). λ is
λ_max · gate · the memory's share of the attention. p_copy has the next token of each copy path in progress, and the first
tokens of the entries at which a path may begin (entries.py). After each token Bayes' rule tells how likely each path is being
copied. A memory whose answer was copied takes no further part.

Only the logits of these tokens are changed; without an open gate none is.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import LongTensor, Tensor
from transformers import LogitsProcessor

from pipeline.config import Settings
from pipeline.fusion.entries import Entry, Tokenize, entries, source
from pipeline.fusion.span import Span
from pipeline.retrieve.hit import Hit
from pipeline.text.clauses import ends_in_label
from pipeline.text.words import terms_of

UNSETTLED = 400  # characters at an answer's end that may still change


class CopyPath(NamedTuple):
    """Tokens of a memory that are being copied, or may be from now on."""

    memory: int
    tokens: tuple[int, ...]
    position: int  # of the next token
    weight: float  # the probability that this path is copied
    answers: bool  # whether the memory has given its answer at the path's end


class Fusion(LogitsProcessor):
    """The memories of one prompt while its answer is generated: a call before each token, and `advance` after it."""

    def __init__(
        self,
        hits: Sequence[Hit],
        span: Span | None,
        context: str,
        tokenize: Tokenize,
        informative: float,
        settings: Settings,
    ) -> None:
        """hits: at least one has an open gate; span: the answer that the model chose in the only such one, if it did;
        context: the prompt's text; informative: nats, the least unigram_nll of a word that is copied for itself."""
        self._hits = [hit for hit in hits if hit.gate > 0]
        self._sources = [source(hit, span, informative, settings) for hit in self._hits]
        self._attention = _attention([hit.score for hit in self._hits], settings.attention_temperature)
        self._tokenize, self._settings = tokenize, settings
        self._context, self._text = context, ""
        self._asks, self._is_whole = ends_in_label(context), span is not None
        self._answered = [False] * len(self._hits)
        self._paths: list[CopyPath] = []  # in progress
        self._possible: list[CopyPath] = []  # paths for the next token: in progress, and new ones
        self._copy: dict[int, float] = {}  # λ·p_copy of each token that is possible now
        self._settled: tuple[set[str], int] = (set(), 0)  # terms of the text, and up to which character
        self._blank = tuple(tokenize(" "))

    @property
    def end(self) -> int | None:
        """Characters: where the text of the answer ends; None while it goes on.

        Only an answer after an empty label ("Answer:") ends, once a memory has given it: with the chosen span, else its line.
        """
        if not (self._asks and any(self._answered)):
            return None
        if self._is_whole:
            return len(self._text)
        begin = len(self._text) - len(self._text.lstrip())
        end = self._text.find("\n", begin)
        return end if end > begin else None

    def __call__(self, input_ids: LongTensor | None, scores: Tensor) -> Tensor:
        """Fuses the memories into the scores: logits [1, V], float32, changed in place. Needs no input_ids."""
        logits = scores[0]
        self._possible, self._copy = [], {}
        if not self._paths and all(self._answered):
            return scores
        self._logits, self._total, self._own = logits, float(logits.logsumexp(-1)), dict[int, float]()
        copied = sum(path.weight for path in self._paths)
        self._possible = self._paths + self._start(1.0 - copied)
        for path in self._possible:
            token = path.tokens[path.position]
            self._copy[token] = self._copy.get(token, 0.0) + path.weight
        self._rest = max(1e-6, 1.0 - sum(self._copy.values()))  # 1 - λ
        if self._copy:
            tokens = torch.tensor(list(self._copy), device=logits.device)
            own = logits[tokens] - self._total
            self._own = dict(zip(self._copy, own.tolist(), strict=True))
            weights = torch.tensor(list(self._copy.values()), device=logits.device)
            # log((1 - λ)·p_LM + λ·p_copy) - log((1 - λ)·p_LM), so that every other logit stays as it is.
            logits[tokens] += torch.log1p(weights / self._rest * torch.exp(-own).clamp(max=1e30))
        return scores

    def raised(self, token: int) -> float:
        """How far the memories raise the token's probability at this place."""
        if not self._copy:
            return 0.0
        p = self._p_model(token)
        return self._rest * p + self._copy.get(token, 0.0) - p

    def advance(self, token: int, text: str) -> None:
        """Updates the paths, by Bayes' rule, with the chosen token. text: the answer so far, with this token."""
        self._text = text
        matching = [path for path in self._possible if path.tokens[path.position] == token]
        self._paths = []
        if not matching:
            return
        p = self._rest * self._p_model(token) + sum(path.weight for path in matching)
        for path in matching:
            weight, position = path.weight / p, path.position + 1
            if weight < self._settings.least_path:
                continue
            if position == len(path.tokens):
                self._answered[path.memory] |= path.answers and weight > self._settings.said_from
            else:
                self._paths.append(path._replace(position=position, weight=weight))

    def _start(self, free: float) -> list[CopyPath]:
        """The paths that may begin now, which share the probability `free` that nothing is being copied."""
        settings = self._settings
        if free < settings.least_path:
            return []
        paths: list[CopyPath] = []
        generated, before = self._terms(), (self._context + self._text)[-settings.context_characters :]
        for m, (hit, fact) in enumerate(zip(self._hits, self._sources, strict=True)):
            if self._answered[m] or not (found := entries(fact, generated, before, self._tokenize, settings)):
                continue
            odds = self._odds(found)
            weight = free * self._attention[m] * hit.gate * settings.trust / sum(odds)
            paths += [
                CopyPath(m, entry.tokens, 0, weight * share, entry.answers)
                for entry, share in zip(found, odds, strict=True)
            ]
        return [path for path in paths if path.weight > settings.least_weight]

    def _odds(self, found: Sequence[Entry]) -> list[float]:
        """How likely each entry of a memory is, relative to the others."""
        first = self._logits[torch.tensor([e.tokens[0] for e in found], device=self._logits.device)]
        logits = []
        for entry, own in zip(found, (first - self._total).tolist(), strict=True):
            if not entry.answers or entry.tokens[:1] == self._blank:
                # A word outside of the answer may come anywhere, and a blank alone tells nothing.
                own = min(own, self._settings.any_word)
            logits.append(entry.bias + self._settings.own_power * own)
        top = max(logits)
        odds = [math.exp(logit - top) for logit in logits]
        for i, entry in enumerate(found):  # an entry with small words before it gets half at most
            if entry.direct is not None and odds[i] > odds[entry.direct]:
                odds[i] = odds[entry.direct] = (odds[i] + odds[entry.direct]) / 2
        return odds

    def _p_model(self, token: int) -> float:
        """The token's probability by the model alone."""
        own = self._own.get(token)
        return math.exp(float(self._logits[token]) - self._total if own is None else own)

    def _terms(self) -> set[str]:
        """The terms of the answer so far. The terms of its settled part are computed once."""
        terms, end = self._settled
        if len(self._text) - end > UNSETTLED:
            cut = self._text.rfind(" ", end, -UNSETTLED // 2)
            if cut > 0:
                terms |= set(terms_of(self._text[end:cut]))
                self._settled = terms, cut
        return terms | set(terms_of(self._text[self._settled[1] :]))


def _attention(scores: Sequence[float], temperature: float) -> list[float]:
    """Each memory's share: a softmax over the scores, as shares of the best one."""
    best = max(scores, default=0.0) or 1.0
    shares = [math.exp((score / abs(best) - 1.0) / temperature) for score in scores]
    return [share / sum(shares) for share in shares]
