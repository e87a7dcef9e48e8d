"""Decisions about facts: pure functions of the bank, which they do not change.

learned      new, and its loss delta reaches the threshold
superseded   newer than a memory of the same key, or of the same subject and relation, which speaks no longer
reinforced   a memory has the same text
outdated     older than a memory of the same key, or of the same subject and relation
skipped      the model knows it: its loss delta is below the threshold
duplicate    its fact_id was decided before
evicted      a memory that a full namespace loses for the one that was learned

Each has the name of its rule: one of verdict.py, or `loss` (skipped) or `capacity` (evicted).
"""

from dataclasses import replace
from datetime import datetime, timedelta

from pipeline.config import DECISIONS, Settings
from pipeline.decide.dedup import by_text
from pipeline.decide.importance import as_float32, grown, learned_weight, memory_to_evict
from pipeline.decide.keys import by_key
from pipeline.decide.verdict import Verdict
from pipeline.memory.bank import Bank, memory_id
from pipeline.memory.events import Decision, NewFact, labels_of
from pipeline.memory.namespace import Namespace


def decide_fact(bank: Bank, fact: NewFact, now: datetime) -> list[Decision]:
    """The fact's decision, followed by the eviction that it causes."""
    settings, encoding = bank.settings, fact.encoding
    dated, observed_at = fact.observed_at, taken_in_time(fact.observed_at, fact.published_at, settings)
    if observed_at != dated:
        fact = replace(fact, observed_at=observed_at)
    verdict = _verdict(bank.namespace(fact.namespace), fact, settings)
    threshold = settings.min_loss_delta if fact.min_loss_delta is None else fact.min_loss_delta
    # A fact that contradicts a memory is never skipped, though the model knows it: the memory would go on answering.
    if verdict.outcome == "learned" and threshold > 0 and encoding.loss_delta < threshold:
        verdict = Verdict("skipped", "loss")
    outcome, rule, memory, similarity = verdict
    decision = Decision(
        fact.namespace,
        outcome,
        fact.cause,
        now,
        rule=rule,
        memory_id=memory.memory_id if memory else None,
        nearest=memory.memory_id if memory else None,
        similarity=None if similarity is None else as_float32(similarity),
        text=encoding.text,
        observed_at=fact.observed_at,
        dated=dated if dated != fact.observed_at else None,
        published_at=fact.published_at,
        base_loss=as_float32(encoding.base_loss),
        recall_loss=as_float32(encoding.recall_loss),
        loss_delta=as_float32(encoding.loss_delta),
        min_loss_delta=threshold,
        encoder_id=encoding.encoder_id,
        **labels_of(fact),
    )
    if outcome == "reinforced" and memory:
        weight, before = DECISIONS.reinforced_weight, memory.importance
        return [
            replace(decision, importance=grown(before, weight, fact.published_at, settings.half_life_days))
        ]
    if outcome not in ("learned", "superseded"):
        return [decision]
    learned = replace(
        decision,
        memory_id=memory_id(fact.namespace, encoding.text, fact.key),
        importance=grown(
            None, learned_weight(encoding.loss_delta), fact.published_at, settings.half_life_days
        ),
        priors=encoding.priors,
        surprisals=encoding.surprisals,
        vectors=encoding.vectors,
    )
    return [learned, *(evictions(bank, learned) if outcome == "learned" else [])]


def taken_in_time(observed_at: datetime, published_at: datetime, settings: Settings) -> datetime:
    """The time that is taken: the Kafka timestamp for one too far in the future, since nothing could be newer."""
    ahead = observed_at - published_at  # a sum of times may lie beyond the calendar
    return published_at if ahead > timedelta(days=settings.max_future_days) else observed_at


def evictions(bank: Bank, added: Decision) -> list[Decision]:
    """The eviction that a full namespace needs for the memory that a decision adds."""
    space = bank.namespace(added.namespace)
    memory = memory_to_evict(space, added.category, bank.settings.capacity) if space else None
    if memory is None:
        return []
    return [
        Decision(
            added.namespace,
            "evicted",
            added.cause,
            added.decided_at,
            rule="capacity",
            memory_id=memory.memory_id,
            nearest=added.memory_id,
            text=memory.text,
            category=memory.category,
            key=memory.key,
            cardinality=memory.cardinality,
            observed_at=memory.observed_at,
            importance=memory.importance,
        )
    ]


def _verdict(space: Namespace | None, fact: NewFact, settings: Settings) -> Verdict:
    if space is None:
        return Verdict("learned", "new")
    verdict = by_key(space, fact) if fact.key is not None else by_text(space, fact, settings.candidates)
    if fact.fact_id is not None and fact.fact_id in space.fact_ids:
        repeated = verdict.memory if verdict.rule == "same_text" else None
        return Verdict("duplicate", "fact_id", repeated, verdict.similarity if repeated else None)
    return verdict
