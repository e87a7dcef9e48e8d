"""Reads of the data folder: pages of memories, one by its id, its history, and the namespaces.

An id lasts while a memory's text is changed by it. Such a memory has the key `memory:ID`, where ID is the memory_id that it had
first; the id of all others is their memory_id. Every function raises `QueryError`, and `HistoryError` if a file is damaged.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import date, datetime
from pathlib import Path
from typing import Any

import orjson

from pipeline.query import run as query
from schemas.common import BadMessage
from workers.memories.entities import FIELDS, entities_of, namespace_of
from workers.memories.filters import Where

TIMEOUT_S = 10.0
KEY = "memory:"
"""How the key of a memory begins whose text was changed by its id."""
MAX_NAMESPACES = 10_000
"""Namespaces that a filter is compared with."""
MAX_EVENTS = 200
"""Most events of one memory's history."""

_ID = f"if(regexp_full_match(key, '{KEY}[0-9a-f]{{32}}'), right(key, 32), memory_id)"
_BORN = "outcome IN ('learned', 'superseded')"
"""Condition of the decisions that made a memory: anybody may ask another namespace to forget the same id."""
_LISTED = f"""listed AS (
    SELECT {_ID} AS id, memory_id, namespace, text AS memory, category, source, key, cardinality, metadata, observed_at, valid_until,
        least(learned_at, observed_at) AS created_at, greatest(learned_at, observed_at) AS updated_at,
        CAST(valid_until - INTERVAL 1 MICROSECOND AS DATE) AS expiration_date
    FROM memories
)"""
_SPACES = f"SELECT {', '.join(f'unnest(${name}) AS {name}' for name in ('namespace', *FIELDS))}"
"""The namespaces that are the query's parameters, with their entities."""
_COLUMNS = (
    "id, memory_id, namespace, memory, category, source, key, cardinality, metadata, observed_at, valid_until, created_at, "
    "updated_at, expiration_date"
)


@dataclass(frozen=True, slots=True)
class Remembered:
    """A memory as it is now. An answer leaves it out from `valid_until` on, the end of its `expiration_date`."""

    id: str
    memory_id: str
    namespace: str
    memory: str
    category: str | None
    source: str | None
    key: str | None
    cardinality: str | None
    metadata: dict[str, Any] | None
    observed_at: datetime
    valid_until: datetime | None
    created_at: datetime
    updated_at: datetime
    expiration_date: date | None


def page(data: Path, where: Where, number: int, size: int) -> tuple[list[Remembered], int]:
    """The page `number`, from 1, of the memories that fulfil the condition, newest first; and how many fulfil it."""
    spaces = namespaces(data, where)
    if not spaces:
        return [], 0
    rows = _rows(
        data,
        _in_spaces(where)
        + f", paged AS (FROM found ORDER BY created_at DESC, id LIMIT {size} OFFSET {size * (number - 1)}) "
        f"SELECT (SELECT count(*) FROM found) AS total, {_COLUMNS} FROM (SELECT 1) LEFT JOIN paged ON true "
        "ORDER BY created_at DESC, id",
        where.parameters | _named(spaces),
    )
    return [_remembered(row) for row in rows if row["id"] is not None], rows[0]["total"]


def namespaces(data: Path, where: Where, at_most: int = MAX_NAMESPACES) -> list[str]:
    """The namespaces with memories that fulfil the condition; the one that it names without asking. Raises BadMessage."""
    if where.namespace is not None:
        return [where.namespace]
    if where.pinned and set(where.pinned) == where.entities:
        return [namespace_of(where.pinned)]
    spaces = [row["namespace"] for row in every_namespace(data)]
    if spaces:
        found = _in_spaces(where) + " SELECT DISTINCT namespace FROM found ORDER BY namespace LIMIT "
        rows = _rows(data, f"{found} {at_most + 1}", where.parameters | _named(spaces))
        spaces = [row["namespace"] for row in rows]
    if len(spaces) > at_most:
        raise BadMessage(
            "invalid-filter", f"the filter is about more than {at_most} namespaces: name a user_id in it"
        )
    return spaces


def every_namespace(data: Path) -> list[dict[str, Any]]:
    """Every namespace with memories: how many they are, and the times of the first and the newest. Raises BadMessage."""
    rows = _rows(
        data,
        "SELECT namespace, count(*) AS memories, min(least(learned_at, observed_at)) AS created_at, "
        "max(greatest(learned_at, observed_at)) AS updated_at FROM memories GROUP BY namespace ORDER BY namespace "
        f"LIMIT {MAX_NAMESPACES + 1}",
    )
    if len(rows) > MAX_NAMESPACES:
        raise BadMessage(
            "invalid-filter", f"there are more than {MAX_NAMESPACES} namespaces: name a user_id without `*`"
        )
    return rows


def find(data: Path, ids: Sequence[str], namespace: str | None = None) -> dict[str, list[Remembered]]:
    """Memories by id; of several with one id, which is rare, the one that was changed by its id comes first.

    A changed memory is taken only from the namespace in which the id came to be.
    """
    if not ids:
        return {}
    rows = _rows(
        data,
        f"WITH homes AS (SELECT DISTINCT memory_id, namespace FROM history WHERE list_contains($ids, memory_id) AND {_BORN}), {_LISTED} "
        f"SELECT {_COLUMNS} FROM listed SEMI JOIN homes ON homes.memory_id = listed.id AND homes.namespace = listed.namespace "
        "ORDER BY id, key IS NULL",
        {"ids": list(ids)},
    )
    found: dict[str, list[Remembered]] = {}
    for one in map(_remembered, rows):
        if namespace in (None, one.namespace):
            found.setdefault(one.id, []).append(one)
    return found


def history(data: Path, id: str, namespace: str | None = None) -> list[dict[str, Any]]:
    """The decisions about an id, oldest first, its uses left out; of a replacement also the text that was before."""
    return _rows(
        data,
        """
WITH home AS (
    SELECT any_value(namespace) AS namespace FROM history WHERE memory_id = $id AND """
        + _BORN
        + """ AND coalesce(namespace = $namespace, $namespace IS NULL)
), life AS (
    SELECT * FROM history SEMI JOIN home USING (namespace)
    WHERE outcome NOT IN ('used', 'unknown', 'duplicate', 'skipped', 'outdated') AND rule IS DISTINCT FROM 'key_taken_up'
), own AS (
    FROM life WHERE memory_id = $id OR key = $key OR (nearest = $id AND outcome IN ('superseded', 'restored'))
)
SELECT own.*, (SELECT arg_max(older.text, older.history_position) FROM history AS older
    WHERE older.memory_id = own.nearest AND older.namespace = own.namespace AND older.text IS NOT NULL
        AND older.history_position < own.history_position) AS before
FROM (
    FROM own UNION ALL BY NAME
    FROM life WHERE outcome IN ('forgotten', 'erased') AND memory_id IS NULL AND key IS NULL
        AND history_position > (SELECT min(history_position) FROM own)
) AS own ORDER BY history_position LIMIT """
        + str(MAX_EVENTS),
        {"id": id, "key": KEY + id, "namespace": namespace},
    )


def successor(data: Path, id: str, namespace: str | None = None) -> str | None:
    """The id of the memory that replaced this one; None if it was not replaced."""
    rows = _rows(
        data,
        "SELECT superseded_by FROM superseded WHERE memory_id = $id AND coalesce(namespace = $namespace, $namespace IS NULL) LIMIT 1",
        {"id": id, "namespace": namespace},
    )
    return rows[0]["superseded_by"] if rows else None


def decided(data: Path, fact_id: str, namespace: str | None = None) -> list[dict[str, Any]]:
    """The decisions about the facts whose fact_id begins so, in their order, each with the text of its memory before."""
    return _rows(
        data,
        f"SELECT {_ID} AS id, namespace, outcome, rule, text, decided_at, (SELECT arg_max(older.text, older.history_position) "
        "FROM history AS older WHERE older.memory_id = fact.nearest AND older.namespace = fact.namespace "
        "AND older.outcome IN ('learned', 'superseded')) AS before FROM history AS fact "
        "WHERE topic = 'facts' AND coalesce(namespace = $namespace, $namespace IS NULL) AND starts_with(fact_id, $fact_id) "
        f"ORDER BY history_position LIMIT {MAX_EVENTS * 10}",
        {"namespace": namespace, "fact_id": fact_id},
    )


def refused(data: Path, fact_id: str) -> str | None:
    """Why a record whose fact_id begins so was refused; None if none was."""
    rows = _rows(
        data,
        "SELECT reason, error FROM dead_letters WHERE contains(try(decode(value)), $fact_id) LIMIT 1",
        {"fact_id": fact_id},
    )
    return f"{rows[0]['error']} ({rows[0]['reason']})" if rows else None


def replaced_by(data: Path, namespace: str, memory_id: str) -> list[str]:
    """The memories that this one replaced, and those that they replaced, at most `MAX_EVENTS`."""
    rows = _rows(
        data,
        "WITH RECURSIVE older AS (SELECT memory_id FROM superseded WHERE namespace = $namespace AND superseded_by = $memory_id "
        "UNION SELECT superseded.memory_id FROM superseded JOIN older ON superseded.superseded_by = older.memory_id "
        f"WHERE namespace = $namespace) FROM older LIMIT {MAX_EVENTS}",
        {"namespace": namespace, "memory_id": memory_id},
    )
    return [row["memory_id"] for row in rows]


def _in_spaces(where: Where) -> str:
    """SQL of the memories that fulfil the condition, with the entities of their namespaces."""
    return (
        f"WITH {_LISTED}, spaces AS ({_SPACES}), "
        f"found AS (SELECT * FROM listed JOIN spaces USING (namespace) WHERE {where.sql})"
    )


def _named(spaces: Iterable[str]) -> dict[str, object]:
    """The parameters that are the namespaces with their entities."""
    spaces = list(spaces)
    entities = [entities_of(space) for space in spaces]
    return {"namespace": spaces} | {name: [one.get(name) for one in entities] for name in FIELDS}


def _rows(data: Path, sql: str, parameters: Mapping[str, object] | None = None) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = query.run(data, sql, TIMEOUT_S, parameters).to_pylist()
    return rows


def _remembered(row: Mapping[str, Any]) -> Remembered:
    values = {column.name: row[column.name] for column in fields(Remembered)}
    values["metadata"] = orjson.loads(row["metadata"]) if row["metadata"] else None
    return Remembered(**values)
