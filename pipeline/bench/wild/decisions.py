"""Decisions about facts as people write them, without keys and with those an upstream would give."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

import numpy as np

from pipeline.bench.harness import Progress, clock
from pipeline.bench.wild.scenario import Scenario
from pipeline.bench.wild.verdicts import START, Confusion, Verdict, confusion, verdicts
from pipeline.config import Settings
from pipeline.decide.decide import decide_fact
from pipeline.ingest.encoder import Encoder
from pipeline.ingest.encoding import FactEncoding
from pipeline.memory.bank import Bank
from pipeline.memory.events import Decision, NewFact, SourceOffset

NAMESPACE = "wild"


@dataclass(frozen=True, slots=True)
class Decided:
    """The decisions of one way."""

    right: int
    wrong_replacements: int
    """Facts that replaced a memory other than that of the fact that they end or say again."""
    matrix: Confusion
    verdicts: list[Verdict]


@dataclass(frozen=True, slots=True)
class DecisionResult:
    domains: int
    facts: int
    without_keys: Decided
    with_keys: Decided
    seconds: float


def measure(encoder: Encoder, scenarios: Sequence[Scenario], progress: Progress) -> DecisionResult:
    """Decides each scenario's facts in a namespace of its own, in both ways."""
    begun = clock()
    without: list[Verdict] = []
    keyed: list[Verdict] = []
    total = sum(len(scenario.facts) for scenario in scenarios)
    for scenario in scenarios:
        encodings = [_encoding(encoder, fact.text) for fact in scenario.learned]
        for keys, found in (({}, without), (keys_of(scenario), keyed)):
            decisions = decide(scenario, encodings, keys)
            found += verdicts(scenario, NAMESPACE, scenario.learned, decisions, keys)
        progress("deciding", len(scenario.facts), total)
    return DecisionResult(len(scenarios), total, _decided(without), _decided(keyed), clock() - begun)


def _encoding(encoder: Encoder, text: str) -> FactEncoding:
    """A fact's encoding as far as decisions depend on it: without its losses and states, which take the model's time."""
    priors = encoder.priors(text)
    vectors = np.zeros((len(priors), 0), np.uint8)
    return FactEncoding(text, encoder.encoder_id, 0.0, 0.0, 0.0, priors, np.zeros_like(priors), vectors)


def keys_of(scenario: Scenario) -> dict[str, str]:
    """A key for each fact: that of the fact that it replaces or says again, else its own."""
    keys: dict[str, str] = {}
    for fact in scenario.learned:
        stated = fact.replaces or fact.same_as
        keys[fact.id] = fact.id if stated is None else keys[stated]
    return keys


def decide(scenario: Scenario, encodings: Sequence[FactEncoding], keys: Mapping[str, str]) -> list[Decision]:
    """The decision about each fact, each on its day; the loss gate skips none."""
    bank, decisions = Bank(Settings(min_loss_delta=0.0)), []
    for number, (fact, encoding) in enumerate(zip(scenario.learned, encodings, strict=True)):
        at, cause = START + timedelta(days=fact.day), SourceOffset("facts", "wild", 0, number)
        new = NewFact(NAMESPACE, encoding, at, at, cause, category=fact.category, key=keys.get(fact.id))
        rows = decide_fact(bank, new, at)
        for row in rows:
            bank.apply(row)
        decisions.append(rows[0])
    return decisions


def _decided(found: list[Verdict]) -> Decided:
    replaced = [one for one in found if one.outcome == "superseded"]
    wrong = [one for one in replaced if one.link not in ("replaces", "same_as") or not one.on_linked]
    return Decided(sum(map(is_right, found)), len(wrong), confusion(found), found)


def is_right(one: Verdict) -> bool:
    """Whether the decision is what a reader of the facts would decide."""
    if one.link == "replaces":
        return one.outcome == "superseded" and one.on_linked
    if one.link == "same_as":
        return one.outcome in ("superseded", "reinforced") and one.on_linked
    return one.outcome == "learned"
