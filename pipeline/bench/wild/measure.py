"""Facts as people write them: what is decided about them, what is said, and what stays untouched."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from random import Random
from typing import TypeVar

from pipeline.bench.harness import Progress, clock
from pipeline.bench.scores import share
from pipeline.bench.wild.answers import WAYS, Answered, Shares, Silence, answer, keep_silent, shares
from pipeline.bench.wild.scenario import Scenario
from pipeline.bench.wild.speed import Speed, Timed, time_prompts
from pipeline.bench.wild.verdicts import Confusion, Verdict, confusion, learn
from pipeline.ingest.encoder import Encoder
from pipeline.memory_lm import MemoryLM

SEED = 20261123
TIMED = 2
"""Asks of each domain that are timed."""

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Updates:
    """Asks about a fact that replaced another."""

    asked: int
    said: dict[str, float | None]
    """Share with the new value, by way."""
    old_read: float | None
    """The share with an open gate of a replaced fact."""


@dataclass(frozen=True, slots=True)
class Kept:
    """Prompts that no fact answers."""

    asked: int
    same: float | None
    """The share with the bare model's answer, token for token."""
    spoke: float | None


@dataclass(frozen=True, slots=True)
class WildResult:
    model: str
    domains: int
    facts: int
    memories: int
    all: Shares
    by_form: dict[str, Shares]
    by_kind: dict[str, Shares]
    by_domain: dict[str, Shares]
    updates: Updates
    silent: Kept
    silent_by_why: dict[str, Kept]
    decided: Confusion
    speed: Speed
    answers: list[Answered]
    silences: list[Silence]
    verdicts: list[Verdict]
    seconds: float


def measure(
    encoder: Encoder, scenarios: Sequence[Scenario], limit: int | None, progress: Progress
) -> WildResult:
    """Learns each scenario's facts in a namespace of its own, and asks.

    limit: asks of a domain, and prompts to keep silent on.
    """
    begun, times = clock(), deque[datetime]()
    lm = MemoryLM(encoder, clock=times.popleft)
    asks = _samples([scenario.asks for scenario in scenarios], limit)
    silent = _samples([scenario.silent for scenario in scenarios], limit)
    fact_count = sum(len(scenario.facts) for scenario in scenarios)
    timed, verdicts = Timed(), list[Verdict]()
    answers, silences = list[Answered](), list[Silence]()

    def counter(what: str, total: int) -> Callable[[int], object]:
        return lambda more: progress(what, more, total)

    answering = counter("answering", len(WAYS) * sum(map(len, asks)))
    timing = counter("timing", sum(len(some[:TIMED]) for some in asks))
    keeping = counter("prompts without an answer", 2 * sum(map(len, silent)))
    for number, scenario in enumerate(scenarios):
        namespace = f"wild-{number}"
        verdicts += learn(lm, times, scenario, namespace)
        progress("learning", len(scenario.facts), fact_count)
        time_prompts(lm, [ask.prompt for ask in asks[number][:TIMED]], namespace, timed, timing)
        answers += answer(lm, scenario, asks[number], namespace, answering)
        silences += keep_silent(lm, scenario, silent[number], namespace, keeping)
    return WildResult(
        encoder.backbone.name,
        len(scenarios),
        fact_count,
        lm.count(),
        shares(answers),
        _by(answers, lambda one: one.form, shares),
        _by(answers, lambda one: one.kind, shares),
        _by(answers, lambda one: one.domain, shares),
        _updates(answers),
        _kept(silences),
        _by(silences, lambda one: one.why, _kept),
        confusion(verdicts),
        timed.speed(),
        answers,
        silences,
        verdicts,
        clock() - begun,
    )


def _samples(lists: Sequence[Sequence[T]], limit: int | None) -> list[list[T]]:
    """Samples of at most `limit` items of each list. One generator draws all, so that lists of one length get different places."""
    random = Random(SEED)
    return [
        list(items) if limit is None or limit >= len(items) else random.sample(items, limit)
        for items in lists
    ]


def _by(items: Sequence[T], name: Callable[[T], str], result: Callable[[Sequence[T]], R]) -> dict[str, R]:
    """The result of the items of each name, in the order of the names' first items."""
    groups: dict[str, list[T]] = {}
    for item in items:
        groups.setdefault(name(item), []).append(item)
    return {key: result(group) for key, group in groups.items()}


def _updates(answers: Sequence[Answered]) -> Updates:
    updated = [one for one in answers if one.updated]
    return Updates(
        len(updated),
        {way: share(one.said[way] for one in updated) for way in WAYS},
        share(one.old_read for one in updated),
    )


def _kept(silences: Sequence[Silence]) -> Kept:
    return Kept(len(silences), share(s.same for s in silences), share(s.spoke for s in silences))
