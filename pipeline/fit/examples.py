"""Examples for the head: prompts with the candidates that the memory finds, and which of them answer.

The facts of a scenario are learned in a namespace of its own, and each prompt goes the way that it goes when it is asked: what is
trained on is what is seen later.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from random import Random
from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.bench.harness import Progress
from pipeline.bench.wild.scenario import Scenario, Silent, WildAsk, stating
from pipeline.bench.wild.verdicts import learn
from pipeline.fit.train import Examples
from pipeline.ingest.encoder import Encoder
from pipeline.memory_lm import MemoryLM
from pipeline.retrieve.ranker import Asked, Candidates, Ranker
from pipeline.retrieve.retriever import retrieve_all

TOGETHER = 32
"""Prompts that are read together."""
UNLABELLED = 0.15
"""Share of the prompts that are read as they were typed."""


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


def prompts_of(scenario: Scenario, random: Random) -> list[Prompt]:
    """The scenario's asks and silent prompts. Some have no label, as questions in a chat."""

    def worded(one: WildAsk | Silent) -> str:
        return one.text if random.random() < UNLABELLED else one.prompt

    asked = [
        Prompt(scenario.domain, worded(ask), _right(scenario, ask), "", ask.answers) for ask in scenario.asks
    ]
    return asked + [Prompt(scenario.domain, worded(one), (), one.why) for one in scenario.silent]


def _right(scenario: Scenario, ask: WildAsk) -> tuple[str, ...]:
    """The facts with the answer, of those that the ask names, or all of these: two hops end at the second fact."""
    named = [fact.text for fact in stating(scenario, ask.facts)]
    with_answer = [text for text in named if any(answer.lower() in text.lower() for answer in ask.answers)]
    return tuple(with_answer or named)


class Read(NamedTuple):
    """A prompt that was read, with its candidates."""

    prompt: Prompt
    texts: list[str]  # of the candidates
    candidates: Candidates


def examples_of(
    encoder: Encoder, scenarios: Sequence[Scenario], random: Random, progress: Progress
) -> tuple[Examples, list[Prompt]]:
    """The examples of all scenarios, each with its prompt. A prompt without candidates is left out."""
    times = deque[datetime]()
    lm, found, groups = MemoryLM(encoder, clock=times.popleft), list[Read](), list[int]()
    domains = dict[str, int]()
    total = sum(len(scenario.asks) + len(scenario.silent) for scenario in scenarios)
    for number, scenario in enumerate(scenarios):
        namespace = f"fit-{number}"
        learn(lm, times, scenario, namespace)
        read = read_prompts(
            lm, namespace, prompts_of(scenario, random), lambda n: progress("reading", n, total)
        )
        groups += [domains.setdefault(scenario.domain, number)] * len(read)
        found += read
    return _padded(found, groups, encoder.settings.read_candidates), [one.prompt for one in found]


def _padded(read: Sequence[Read], groups: Sequence[int], width: int) -> Examples:
    def pad(rows: Tensor) -> Tensor:
        padded = rows.new_zeros((width, *rows.shape[1:]))
        padded[: len(rows)] = rows
        return padded

    right = [torch.tensor([text in one.prompt.right for text in one.texts]) for one in read]
    return Examples(
        torch.stack([pad(one.candidates.evidence) for one in read]),
        torch.stack([pad(one.candidates.states.half()) for one in read]),
        torch.stack([one.candidates.bare.half() for one in read]),
        torch.stack([pad(torch.ones(len(own), dtype=torch.bool)) for own in right]),
        torch.stack([pad(own) for own in right]),
        torch.tensor(groups),
    )


def read_prompts(
    lm: MemoryLM, namespace: str, prompts: Sequence[Prompt], done: Callable[[int], object]
) -> list[Read]:
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
            Read(prompt, [hit.memory.text for hit in own], candidates)
            for prompt, own, candidates in zip(some, hits, read, strict=True)
            if candidates is not None
        ]
        done(len(some))
    return found
