"""Examples for the head: prompts with the candidates that the memory finds, and which of them answer.

The facts of a scenario are learned in a namespace of its own, and each prompt goes the way that it goes when it is asked: what is
trained on is what is seen later.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

import torch

from pipeline.bench.files import FactRow
from pipeline.bench.wild.scenario import Scenario, WildAsk, stating
from pipeline.bench.wild.verdicts import learn
from pipeline.fit.train import Examples
from pipeline.ingest.encoder import Encoder
from pipeline.memory.bank import Bank
from pipeline.memory_lm import MemoryLM
from pipeline.retrieve.evidence import FEATURES
from pipeline.retrieve.ranker import Asked, Candidates, Ranker
from pipeline.retrieve.retriever import retrieve_all

TOGETHER = 32
"""Prompts that are read together."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt of a scenario, and the texts of the facts that answer it."""

    domain: str
    text: str
    right: tuple[str, ...]
    """Empty for a prompt that no fact answers."""
    why: str
    """Why none does; "" where one does."""
    answers: tuple[str, ...] = ()


def prompts_of(scenario: Scenario) -> list[Prompt]:
    """The scenario's asks and silent prompts."""
    asked = [
        Prompt(scenario.domain, ask.prompt, _right(scenario, ask), "", ask.answers) for ask in scenario.asks
    ]
    return asked + [Prompt(scenario.domain, one.prompt, (), one.why) for one in scenario.silent]


def _right(scenario: Scenario, ask: WildAsk) -> tuple[str, ...]:
    """The facts with the answer, of those that the ask names, or all of these: two hops end at the second fact."""
    named = [fact.text for fact in stating(scenario, ask.facts)]
    with_answer = [text for text in named if any(answer.lower() in text.lower() for answer in ask.answers)]
    return tuple(with_answer or named)


def read_prompts(
    lm: MemoryLM, namespace: str, prompts: Sequence[Prompt], done: Callable[[int], object]
) -> list[tuple[Prompt, list[str], Candidates]]:
    """Each prompt that has candidates, with their texts and what the head gets about them."""
    encoder, settings = lm.encoder, lm.bank.settings
    ranker = Ranker(encoder.backbone, encoder.contexts, encoder.weights, settings)
    found = []
    for at in range(0, len(prompts), TOGETHER):
        some = prompts[at : at + TOGETHER]
        encoded = encoder.encode_prompts([prompt.text for prompt in some])
        hits = retrieve_all(lm.bank, [[namespace]] * len(some), encoded, settings.read_candidates)
        read = ranker.candidates([Asked(p.text, own) for p, own in zip(some, hits, strict=True)])
        found += [
            (prompt, [hit.memory.text for hit in own], candidates)
            for prompt, own, candidates in zip(some, hits, read, strict=True)
            if candidates is not None
        ]
        done(len(some))
    return found
