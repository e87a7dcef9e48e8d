"""The answers in mem0's format: memories, what became of an addition, histories and entities."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime
from typing import Any

import orjson

from workers.memories.changes import Change
from workers.memories.entities import FIELDS, entities_of
from workers.memories.reading import Remembered
from workers.memories.service import Effect, Found, Outcome

HALF_SCORE = 10.0
"""Nats of evidence with a score of one half."""


def memory(one: Remembered, fields: Sequence[str] | None = None) -> dict[str, Any]:
    """A memory; with `fields` only these of it, and its id."""
    named = entities_of(one.namespace)
    shape = {
        "id": one.id,
        "memory": one.memory,
        **{field: named.get(field) for field in FIELDS},
        "metadata": one.metadata,
        "categories": [one.category] if one.category else [],
        "created_at": _iso(one.created_at),
        "updated_at": _iso(one.updated_at),
        "expiration_date": _iso(one.expiration_date),
        "immutable": False,
    }
    return {name: value for name, value in shape.items() if not fields or name in fields or name == "id"}


def found(one: Found, fields: Sequence[str] | None = None) -> dict[str, Any]:
    """A memory that a search found."""
    return memory(one.memory, fields) | {"score": score(one)}


def score(one: Found) -> float:
    """The evidence as a number from 0 to 1, in the order of the search's own scores."""
    nats = max(0.0, one.score)
    return round(nats / (nats + HALF_SCORE), 4)


def effects(found: Iterable[Effect]) -> list[dict[str, Any]]:
    """What became of each fact."""
    shapes = []
    for one in found:
        shape = {
            "id": one.id,
            "event": one.event,
            "memory": one.memory,
            "data": {"memory": one.memory},
            "outcome": one.outcome,
        }
        shapes.append(shape | ({"previous_memory": one.before} if one.before is not None else {}))
    return shapes


def history(id: str, events: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The life of a memory: ADD, UPDATE (another text, or a statement again) and DELETE."""
    shapes, last = [], None
    for n, row in enumerate(events):
        event, new = "UPDATE", row["text"]
        if row["outcome"] in ("learned", "restored"):
            event, old = "ADD", None
        elif row["outcome"] == "superseded":
            event, old = ("UPDATE", row["before"]) if row["before"] is not None else ("ADD", None)
        elif row["outcome"] == "reinforced":
            old = row["text"]
        else:
            event, old, new = "DELETE", row["text"] or last, None
        last = new or last
        named = entities_of(row["namespace"])
        shapes.append(
            {
                "id": f"{id}-{n}",
                "memory_id": id,
                "input": [{"role": "user", "content": row["text"]}]
                if row["text"] and event != "DELETE"
                else [],
                "old_memory": old,
                "new_memory": new,
                "event": event,
                **{field: named.get(field) for field in FIELDS},
                "metadata": orjson.loads(row["metadata"]) if row["metadata"] else None,
                "outcome": row["outcome"],
                "rule": row["rule"],
                "created_at": _iso(row["decided_at"]),
                "updated_at": _iso(row["decided_at"]),
            }
        )
    return shapes


def entities(namespaces: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Every user, agent, app and run, with its memories in all namespaces that have it."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for space in namespaces:
        for field, name in entities_of(space["namespace"]).items():
            kind = field.removesuffix("_id")
            empty = {
                "id": f"{kind}:{name}", "name": name, "type": kind, "total_memories": 0, "created_at": space["created_at"],
                "updated_at": space["updated_at"], "owner": "factstream", "organization": "factstream", "metadata": {},
            }  # fmt: skip
            one = found.setdefault((kind, name), empty)
            one["total_memories"] += space["memories"]
            one["created_at"] = min(one["created_at"], space["created_at"])
            one["updated_at"] = max(one["updated_at"], space["updated_at"])
    times = ("created_at", "updated_at")
    return [one | {name: _iso(one[name]) for name in times} for _, one in sorted(found.items())]


def change(one: Change, outcome: Outcome | None = None) -> dict[str, Any]:
    """An event: an addition that was made here not long ago."""
    ended = one.completed_at
    return {
        "id": one.id,
        "event_type": "ADD",
        "status": outcome.status if outcome else one.status,
        "payload": entities_of(one.namespace),
        "metadata": None,
        "results": effects(outcome.effects) if outcome else [],
        "error": outcome.error if outcome else one.error,
        "created_at": _iso(one.created_at),
        "started_at": _iso(one.created_at),
        "updated_at": _iso(ended or one.created_at),
        "completed_at": _iso(ended),
        "latency": round((ended - one.created_at).total_seconds() * 1000, 1) if ended else None,
    }


def _iso(moment: datetime | date | None) -> str | None:
    return None if moment is None else moment.isoformat()
