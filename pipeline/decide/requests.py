"""Decisions about requests, uses and empty conversations, pure functions of the bank.

forgotten   removed on request; `erased`: its text will leave the history, too
duplicate   a request to forget a key whose fact_id was decided before
restored    brought back after another superseded it; `unknown`: it is not superseded, or is not kept any more
used        took part in an answer
skipped     a conversation that states nothing

The rule is the request: forget, forget_key, forget_all, restore; or `use`, or `nothing_stated`.
"""

from dataclasses import replace
from datetime import datetime

from pipeline.decide.decide import evictions, taken_in_time
from pipeline.decide.importance import as_float32, grown
from pipeline.memory.bank import Bank
from pipeline.memory.events import (
    Decision,
    ForgetRequest,
    NothingStated,
    RestoreRequest,
    SourceOffset,
    labels_of,
)


def decide_forget(bank: Bank, request: ForgetRequest, now: datetime) -> list[Decision]:
    """The decision to remove memories. An erasure's does not repeat the text, which will leave the history, too."""
    decision = Decision(
        request.namespace,
        "erased" if request.erase else "forgotten",
        request.cause,
        now,
        rule="forget",
        memory_id=request.memory_id,
        published_at=request.published_at,
    )
    if request.memory_id is not None:
        return [_forget_one(bank, request, decision)]
    if request.key is not None:
        return [_forget_key(bank, request, replace(decision, rule="forget_key", key=request.key))]
    return [replace(decision, rule="forget_all", observed_at=request.observed_at)]


def _forget_one(bank: Bank, request: ForgetRequest, decision: Decision) -> Decision:
    """The decision on one memory. With a single-valued key it records until when the key is over: older facts may still arrive."""
    space, memory_id = bank.namespace(request.namespace), request.memory_id or ""
    memory = space.table.get(memory_id) if space else None
    kept = space.superseded.get(memory_id) if space else None
    if not request.erase and (known := memory or (kept and kept.memory)):
        decision = replace(decision, text=known.text)
    if memory is None or not memory.is_single:
        return decision
    return replace(decision, key=memory.key, observed_at=memory.observed_at)


def _forget_key(bank: Bank, request: ForgetRequest, decision: Decision) -> Decision:
    """A late request, such as a deletion that a connector sends again, does not remove what is newer.

    It still says that what was stated before is over: of a key with many values an older one may arrive after it.
    """
    space = bank.namespace(request.namespace)
    decision = replace(decision, fact_id=request.fact_id)
    if space and request.fact_id is not None and request.fact_id in space.fact_ids:
        return replace(decision, outcome="duplicate", rule="fact_id", observed_at=request.observed_at)
    if (dated := request.observed_at) is not None:
        observed_at = taken_in_time(dated, request.published_at, bank.settings)
        return replace(decision, observed_at=observed_at, dated=dated if dated != observed_at else None)
    key = request.key or ""
    stated = [*space.of_key(key), *space.superseded_of_key(key)] if space else []
    return replace(decision, observed_at=max([request.published_at, *(one.observed_at for one in stated)]))


def decide_restore(bank: Bank, request: RestoreRequest, now: datetime) -> list[Decision]:
    """The decision to bring a memory back, as if it was stated again at the time of the request.

    So it is newer than the memory that superseded it. Of a single-valued key it takes that one's place.
    """
    space = bank.namespace(request.namespace)
    kept = space.superseded.get(request.memory_id) if space else None
    decision = Decision(
        request.namespace,
        "unknown",
        request.cause,
        now,
        rule="restore",
        memory_id=request.memory_id,
        published_at=request.published_at,
    )
    if space is None or kept is None:
        return [decision]
    memory = kept.memory
    others = space.of_key(memory.key) if memory.is_single and memory.key is not None else []
    newest = max(others, key=lambda other: other.observed_at, default=None)
    restored = replace(
        decision,
        outcome="restored",
        nearest=newest.memory_id if newest else None,
        text=memory.text,
        observed_at=max([request.published_at, memory.observed_at, *(other.observed_at for other in others)]),
        **labels_of(memory) | {"fact_id": None},
    )
    return [restored, *(evictions(bank, restored) if newest is None else [])]


def decide_nothing(event: NothingStated, now: datetime) -> list[Decision]:
    """The decision about a conversation that states nothing: its record is decided."""
    return [
        Decision(
            event.namespace,
            "skipped",
            event.cause,
            now,
            rule="nothing_stated",
            published_at=event.published_at,
        )
    ]


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
            rule="use",
            memory_id=memory_id,
            gate=as_float32(gate),
            request_id=request_id,
            importance=importance,
        )
    ]
