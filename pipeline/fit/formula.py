"""Fit of the numbers in the fusion's formula, on asks whose right facts are read.

Of the settings on a grid it takes the one with which most answers are given whole: every token of the answer is the most likely
one after those before it. Of equal ones it takes the first.
"""

from collections.abc import Sequence
from itertools import product
from random import Random
from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.bench.harness import Progress
from pipeline.bench.wild.scenario import Scenario
from pipeline.fit.rows import answer_of
from pipeline.fusion.prepare import fusion_of
from pipeline.ingest.encoder import Encoder
from pipeline.model.contexts import Prompt
from pipeline.model.reading import context_of
from pipeline.model.weights import Numbers, none_token

CONTRAST, COPY, FOLLOW = (1.0, 1.25, 1.5, 2.0), (0.0, 0.75, 1.5), (0.0, 0.75, 1.5)
ASKS = 400
"""Asks on which the settings are compared."""


class _Case(NamedTuple):
    """An ask with its right facts, and what both streams predict along its answer."""

    prompt: str
    facts: list[str]
    answer: list[int]
    bare: Tensor  # [tokens, V] float32
    memory: Tensor  # [tokens, V] float32


def fit_formula(
    encoder: Encoder, scenarios: Sequence[Scenario], random: Random, progress: Progress
) -> tuple[Numbers, float]:
    """The encoder's numbers with the best contrast, copy and follow, and the share of the answers that they give whole."""
    asks = [(scenario, ask) for scenario in scenarios for ask in scenario.asks]
    settings = [
        encoder.weights.numbers._replace(contrast=contrast, copy=copy, follow=follow)
        for contrast, copy, follow in product(CONTRAST, COPY, FOLLOW)
    ]
    given = [0] * len(settings)
    chosen = random.sample(asks, min(ASKS, len(asks)))
    for scenario, ask in chosen:
        named = set(ask.facts)
        facts = [" ".join(fact.text.split()) for fact in scenario.learned if fact.id in named]
        case = _case(encoder, ask.prompt, facts, answer_of(ask, facts))
        for n, numbers in enumerate(settings):
            given[n] += _gives(encoder, case, numbers)
        progress("formula", 1, len(chosen))
    best = max(range(len(settings)), key=lambda n: given[n])
    return settings[best], given[best] / max(1, len(chosen))


def _case(encoder: Encoder, prompt: str, facts: list[str], answer: str) -> _Case:
    ids, own = (tokens.ids for tokens in encoder.backbone.tokenize([prompt, f" {answer}"]))
    prompts = [Prompt(context, ids + own) for context in ((), context_of(facts))]
    bare, memory = encoder.contexts.log_p(prompts, len(own) + 1)
    return _Case(prompt, facts, own, bare[:-1], memory[:-1])


@torch.inference_mode()
def _gives(encoder: Encoder, case: _Case, numbers: Numbers) -> bool:
    none = none_token(encoder.backbone, encoder.weights)
    fusion = fusion_of(encoder.backbone, case.prompt, case.facts, 1.0, numbers, none)
    for token, bare, memory in zip(case.answer, case.bare, case.memory, strict=True):
        if int(fusion.fuse(bare, memory).argmax()) != token:
            return False
        fusion.advance(token)
    return True
