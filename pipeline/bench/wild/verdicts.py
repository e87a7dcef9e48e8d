"""Verdicts: what the memory decided about each fact, against the link that the fact has."""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from pipeline.bench.wild.scenario import LINKS, Scenario, WildFact, stating
from pipeline.memory.bank import memory_id
from pipeline.memory.events import Decision
from pipeline.memory_lm import MemoryLM

START = datetime(2026, 1, 1, tzinfo=UTC)
"""When day 0 begins."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The decision about one fact."""

    domain: str
    fact: str
    link: str
    """One of LINKS, or "new"."""
    outcome: str
    acted_on: str | None
    """The id of the fact whose memory it repeats, replaces or is older than; None for none."""
    on_linked: bool
    """Whether that memory states the fact that it is linked with."""


@dataclass(frozen=True, slots=True)
class Confusion:
    """The number of facts, by link and by outcome."""

    facts: dict[str, dict[str, int]]
    on_linked: dict[str, dict[str, int]]
    """Facts whose decision acted on the memory of the fact that they are linked with."""


def learn(lm: MemoryLM, times: deque[datetime], scenario: Scenario, namespace: str) -> list[Verdict]:
    """Learns the facts, each on its day. times: what the memory's clock shows next, one time a fact."""
    facts = scenario.learned
    times.extend(START + timedelta(days=fact.day) for fact in facts)
    decisions = lm.learn(
        [fact.text for fact in facts], namespace, [fact.category for fact in facts], min_loss_delta=0.0
    )
    return verdicts(scenario, namespace, facts, decisions)


def verdicts(
    scenario: Scenario,
    namespace: str,
    facts: Sequence[WildFact],
    decisions: Sequence[Decision],
    keys: Mapping[str, str] | None = None,
) -> list[Verdict]:
    """What was decided about each of the facts. keys: by the facts' ids, where they have keys."""
    keys = keys or {}
    memory_of = {fact.id: memory_id(namespace, fact.text, keys.get(fact.id)) for fact in facts}
    ids: dict[str, str] = {}  # by memory: the first fact with its text
    for fact in facts:
        ids.setdefault(memory_of[fact.id], fact.id)
    found = []
    for fact, decision in zip(facts, decisions, strict=True):
        acted_on = ids.get(decision.nearest) if decision.nearest is not None else None
        linked = stating(scenario, [fact.linked]) if fact.linked is not None else []
        on_linked = acted_on is not None and any(memory_of[other.id] == decision.nearest for other in linked)
        found.append(Verdict(scenario.domain, fact.id, fact.link, decision.outcome, acted_on, on_linked))
    return found


def confusion(found: Sequence[Verdict]) -> Confusion:
    """The counts, links in the order of LINKS, and outcomes in the order in which they occur."""
    outcomes = list(dict.fromkeys(one.outcome for one in found))

    def counts(link: str, some: Sequence[Verdict]) -> dict[str, int]:
        return {o: sum(one.link == link and one.outcome == o for one in some) for o in outcomes}

    on_linked = [one for one in found if one.on_linked]
    return Confusion(
        {link: counts(link, found) for link in ("new", *LINKS)},
        {link: counts(link, on_linked) for link in LINKS},
    )
