"""Fit of the second look: pairs of facts that an answer needs together, and pairs that it does not.

The asks go the way that they go when they are asked, up to the partners of the fact that the gate took. A partner is needed if the
ask names it, and the first fact does not answer alone: for two hops, for a list, and where the first fact is a wrong one.
"""

from collections import deque
from collections.abc import Sequence
from datetime import datetime
from random import Random
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pipeline.bench.harness import Progress
from pipeline.bench.scores import share
from pipeline.bench.wild.scenario import Scenario, WildAsk, stating
from pipeline.bench.wild.verdicts import learn
from pipeline.fit.train import folds
from pipeline.ingest.encoder import Encoder
from pipeline.memory_lm import MemoryLM
from pipeline.retrieve.ranker import Asked, Ranker
from pipeline.retrieve.retriever import retrieve_all
from pipeline.retrieve.second_look import PAIR, Pair, Query, pairs_of

SEVERAL = ("two hop", "list", "beside")
"""Kinds of asks that several facts answer together."""
OTHERS = 5
"""Other asks of each scenario."""
WRONG = 0.05
"""Share of the asks that need no partner for which one is taken. Set."""
TOGETHER = 32
"""Asks that are ranked together."""
DECAY = 1e-3  # of the regression's weights


class Looked(NamedTuple):
    """An ask, with its pairs and which of them it needs."""

    group: int  # the scenario
    pairs: Sequence[Pair]
    needed: Sequence[bool]


class PairReport(NamedTuple):
    """What the second look gives on domains that it was not fitted on."""

    asks: int
    """Asks with a partner that they need."""
    found: float | None
    """The share of these whose likeliest partner is needed, and taken."""
    others: int
    wrong: float | None
    """The share of the other asks for which a partner is taken."""


def fit_pairs(
    encoder: Encoder, scenarios: Sequence[Scenario], random: Random, progress: Progress
) -> tuple[Tensor, PairReport]:
    """The regression [PAIR + 1], which takes a partner from a probability of one half, and its report."""
    return fitted(look_all(encoder, scenarios, random, progress))


def fitted(looked: Sequence[Looked]) -> tuple[Tensor, PairReport]:
    """The same, of asks that have been looked at. Where it takes a partner is read off domains that were left out."""
    # Of each ask: its likeliest pair's logit, whether that pair is needed, and whether any is.
    best = list[tuple[float, bool, bool]]()
    for part in folds([one.group for one in looked]):
        weights = regression([one for one in looked if one.group not in part])
        for one in looked:
            if one.group in part:
                logits = torch.tensor([pair.evidence for pair in one.pairs]) @ weights[:-1] + weights[-1]
                top = int(logits.argmax())
                best.append((float(logits[top]), one.needed[top], any(one.needed)))
    others = sorted((logit for logit, _, needed in best if not needed), reverse=True)
    least = others[int(WRONG * len(others))] if others else 0.0
    weights = regression(looked)
    weights[-1] -= least
    found = share(logit > least and right for logit, right, needed in best if needed)
    wrong = share(logit > least for logit in others)
    return weights, PairReport(len(best) - len(others), found, len(others), wrong)


def look_all(
    encoder: Encoder, scenarios: Sequence[Scenario], random: Random, progress: Progress
) -> list[Looked]:
    """The asks of all scenarios whose fact has partners."""
    times, found = deque[datetime](), list[Looked]()
    lm = MemoryLM(encoder, clock=times.popleft)
    ranker = Ranker(encoder.backbone, encoder.contexts, encoder.weights, lm.bank.settings)
    for number, scenario in enumerate(scenarios):
        namespace = f"pairs-{number}"
        learn(lm, times, scenario, namespace)
        others = [ask for ask in scenario.asks if ask.kind not in SEVERAL]
        asks = [ask for ask in scenario.asks if ask.kind in SEVERAL]
        asks += random.sample(others, min(OTHERS, len(others)))
        for at in range(0, len(asks), TOGETHER):
            some = asks[at : at + TOGETHER]
            queries = _ranked(lm, ranker, namespace, [ask.prompt for ask in some])
            for ask, query, pairs in zip(some, queries, pairs_of(encoder, lm.bank, queries), strict=True):
                if pairs:
                    found.append(Looked(number, pairs, _needed(scenario, ask, query, pairs)))
        progress("pairing", 1, len(scenarios))
    return found


def _ranked(lm: MemoryLM, ranker: Ranker, namespace: str, prompts: Sequence[str]) -> list[Query]:
    encoded = lm.encoder.encode_prompts(prompts)
    names = [[namespace]] * len(prompts)
    hits = retrieve_all(lm.bank, names, encoded, lm.bank.settings.read_candidates)
    ranked = ranker.rank([Asked(text, own) for text, own in zip(prompts, hits, strict=True)])
    return [Query(text, [namespace], own) for text, own in zip(prompts, ranked, strict=True)]


def _needed(scenario: Scenario, ask: WildAsk, query: Query, pairs: Sequence[Pair]) -> list[bool]:
    first = query.hits[0].memory.text
    named = {fact.text for fact in stating(scenario, ask.facts)}
    same = {
        other.text for fact in scenario.facts if fact.text == first for other in stating(scenario, [fact.id])
    }
    several = ask.kind in SEVERAL or first not in named
    return [several and pair.partner.memory.text in named - same for pair in pairs]


def regression(looked: Sequence[Looked]) -> Tensor:
    """[PAIR + 1], fitted on these pairs; its constant is last."""
    x = torch.tensor([pair.evidence for one in looked for pair in one.pairs]).view(-1, len(PAIR))
    y = torch.tensor([float(needed) for one in looked for needed in one.needed])
    if not len(x):
        return untaught()
    mean, scale = x.mean(0), x.std(0, correction=0) + 1e-6
    z = (x - mean) / scale
    weights = torch.zeros(len(PAIR) + 1, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        cost = nn.functional.binary_cross_entropy_with_logits(z @ weights[:-1] + weights[-1], y)
        cost = cost + DECAY * (weights[:-1] ** 2).sum()
        cost.backward()  # type: ignore[no-untyped-call]
        return cost

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        return torch.cat([weights[:-1] / scale, (weights[-1] - (weights[:-1] * mean / scale).sum())[None]])


def untaught() -> Tensor:
    """[PAIR + 1] that takes no partner."""
    return torch.cat([torch.zeros(len(PAIR)), torch.tensor([-20.0])])
