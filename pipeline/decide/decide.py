"""Decisions about facts, forgets and uses: pure functions of the bank, which they do not change.

learned      new, and its loss delta reaches the threshold
superseded   newer than a memory about the same subject and relation, which it replaces
reinforced   a memory has the same text
outdated     older than a memory about the same subject and relation
skipped      the model knows it: its loss delta is below the threshold
duplicate    its fact_id was decided before
evicted      a memory that a full namespace loses for the one that was learned
"""

from datetime import datetime
from functools import partial

from pipeline.config import DECISIONS
from pipeline.decide.dedup import Match, find_match
from pipeline.decide.importance import as_float32, grown, learned_weight, memory_to_evict
from pipeline.memory.bank import Bank, memory_id
from pipeline.memory.events import Decision, ForgetRequest, NewFact, SourceOffset, labels_of


def decide_fact(bank: Bank, fact: NewFact, now: datetime) -> list[Decision]:
    """The fact's decision, followed by the eviction that it causes."""
    settings, encoding, space = bank.settings, fact.encoding, bank.namespace(fact.namespace)
    threshold = settings.min_loss_delta if fact.min_loss_delta is None else fact.min_loss_delta
    own_id = memory_id(fact.namespace, encoding.text)
    match = find_match(space, fact, own_id, settings.candidates) if space else None
    decision = partial(_decision, fact, threshold, match, now)
    if space and fact.fact_id is not None and fact.fact_id in space.fact_ids:
        return [decision("duplicate", match.memory.memory_id if match and match.same_text else None)]
    if match and match.same_text:
        importance = grown(
            match.memory.importance, DECISIONS.reinforced_weight, fact.published_at, settings.half_life_days
        )
        return [decision("reinforced", match.memory.memory_id, importance=importance)]
    if match and fact.observed_at < match.memory.observed_at:
        return [decision("outdated", match.memory.memory_id)]
    # A fact that contradicts a memory is never skipped, though the model knows it: the memory would go on answering.
    if not match and threshold > 0 and encoding.loss_delta < threshold:
        return [decision("skipped", None)]
    learned = decision(
        "superseded" if match else "learned",
        own_id,
        importance=grown(
            None, learned_weight(encoding.loss_delta), fact.published_at, settings.half_life_days
        ),
        priors=encoding.priors,
        surprisals=encoding.surprisals,
        vectors=encoding.vectors,
    )
    return [learned] if match else [learned, *_evictions(bank, fact, own_id, now)]


def decide_forget(bank: Bank, request: ForgetRequest, now: datetime) -> list[Decision]:
    """The decision to remove a memory. An erasure's does not repeat the text, which will leave the history, too."""
    memory = bank.get(request.namespace, request.memory_id)
    text = memory.text if memory and not request.erase else None
    outcome = "erased" if request.erase else "forgotten"
    return [Decision(request.namespace, outcome, request.cause, now, memory_id=request.memory_id, text=text)]


def decide_use(
    bank: Bank,
    namespace: str,
    memory_id: str,
    gate: float,
    request_id: str,
    cause: SourceOffset,
    now: datetime,
) -> list[Decision]:
    """The decision about a use, which adds its gate to the importance; only a record if the memory was removed since."""
    memory = bank.get(namespace, memory_id)
    importance = grown(memory.importance, gate, now, bank.settings.half_life_days) if memory else None
    return [
        Decision(
            namespace,
            "used",
            cause,
            now,
            memory_id=memory_id,
            gate=as_float32(gate),
            request_id=request_id,
            importance=importance,
        )
    ]


def _decision(
    fact: NewFact,
    threshold: float,
    match: Match | None,
    now: datetime,
    outcome: str,
    memory_id: str | None,
    **more: object,
) -> Decision:
    """A fact's decision, with the columns of the fact that the history keeps. more: further columns."""
    encoding = fact.encoding
    return Decision(
        fact.namespace,
        outcome,
        fact.cause,
        now,
        memory_id=memory_id,
        nearest=match.memory.memory_id if match else None,
        similarity=as_float32(match.similarity) if match else None,
        text=encoding.text,
        observed_at=fact.observed_at,
        published_at=fact.published_at,
        base_loss=as_float32(encoding.base_loss),
        recall_loss=as_float32(encoding.recall_loss),
        loss_delta=as_float32(encoding.loss_delta),
        min_loss_delta=threshold,
        encoder_id=encoding.encoder_id,
        **labels_of(fact),
        **more,  # type: ignore[arg-type]
    )


def _evictions(bank: Bank, fact: NewFact, learned_id: str, now: datetime) -> list[Decision]:
    space = bank.namespace(fact.namespace)
    memory = memory_to_evict(space, fact.category, bank.settings.capacity) if space else None
    if memory is None:
        return []
    return [
        Decision(
            fact.namespace,
            "evicted",
            fact.cause,
            now,
            memory_id=memory.memory_id,
            nearest=learned_id,
            text=memory.text,
            category=memory.category,
            importance=memory.importance,
        )
    ]
