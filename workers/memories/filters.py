"""Filters of memories: mem0's expressions as SQL over one table, every value a bound parameter.

AND, OR and NOT over conditions on entities, times, the category, the metadata, the text and ids. A condition is a value, `*` for
any value, or operators with values. An entity that a filter does not mention is one that the memory does not have: `user_id: ann`
does not find what `user_id: ann, run_id: 7` remembers. Nothing of a filter becomes SQL but the names in this file.
"""

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any

import orjson

from schemas.common import BadMessage
from workers.memories.entities import ANY, FIELDS

MAX_DEPTH = 8
"""Most levels of AND, OR and NOT in each other."""
MAX_CONDITIONS = 100
MAX_VALUES = 1_000
"""Most values of one list, and of the whole filter."""
MAX_CHARS = 8_192
"""Most characters of one value."""

_COMPARE = {"eq": "=", "gt": ">", "gte": ">=", "lt": "<", "lte": "<="}
_CONTAIN = {"contains": "contains({0}, {1})", "icontains": "contains(lower({0}), lower({1}))"}
_OPERATORS = {*_COMPARE, *_CONTAIN, "ne", "in", "nin"}
_TEXTS = {"categories": "category", "text": "memory", "keywords": "memory", **{name: name for name in FIELDS}}
_TIMES = {"created_at": "created_at", "updated_at": "updated_at", "timestamp": "observed_at"}
_KNOWN = (*FIELDS, *_TIMES, "expiration_date", "categories", "metadata", "text", "keywords", "memory_ids")

SPEAKS = "(valid_until IS NULL OR valid_until > now())"
"""Condition of a memory that has not expired."""

Compare = Callable[[str, str, Any], str]
"""SQL of a column's comparison, by one operator, with one value."""


@dataclass
class Where:
    """A condition in SQL, with its parameters and what it says of entities."""

    sql: str = "true"
    parameters: dict[str, object] = field(default_factory=dict)
    entities: set[str] = field(default_factory=set)
    """The entities that it mentions."""
    pinned: dict[str, str] = field(default_factory=dict)
    """Entities that must have this value, whatever else the filter asks for."""
    namespace: str | None = None
    """The only namespace of it, whatever it says of entities."""

    def bind(self, value: object) -> str:
        """The name of a parameter with this value. Raises BadMessage."""
        if len(self.parameters) >= MAX_VALUES:
            raise _wrong(f"a filter has more than {MAX_VALUES} values")
        name = f"p{len(self.parameters)}"
        self.parameters[name] = value
        return f"${name}"

    def also(self, sql: str) -> None:
        self.sql = f"{self.sql} AND {sql}"


def where_in(namespace: str, *conditions: Mapping[str, Any]) -> Where:
    """The memories of one namespace that fulfil all conditions, without the expired ones. Raises BadMessage."""
    found = where({"AND": list(conditions)}, scoped=False) if conditions else Where()
    found.namespace = namespace
    found.also(SPEAKS)
    return found


def where(filters: Mapping[str, Any], scoped: bool = True) -> Where:
    """The condition of a filter. `scoped`: what it does not mention of entities a memory must not have. Raises BadMessage."""
    found = Where()
    found.sql = _Reader(found).all_of(filters, 0, pins=True)
    if scoped:
        for entity in FIELDS:
            if entity not in found.entities:
                found.also(f"{entity} IS NULL")
    return found


class _Reader:
    """Reads one filter, and counts its conditions."""

    def __init__(self, found: Where) -> None:
        self._found, self._conditions = found, 0

    def all_of(self, node: object, depth: int, pins: bool = False) -> str:
        """The conjunction of an object's entries. `pins`: whether each of them must hold for the whole filter to hold."""
        if not isinstance(node, Mapping) or not node:
            raise _wrong("a filter is an object with one condition at least, such as {'user_id': 'ann'}")
        if depth > MAX_DEPTH:
            raise _wrong(f"AND, OR and NOT lie more than {MAX_DEPTH} deep in each other")
        return " AND ".join(self._entry(name, value, depth, pins) for name, value in node.items())

    def _entry(self, name: str, value: object, depth: int, pins: bool) -> str:
        if name == "AND":
            return f"({' AND '.join(self.all_of(one, depth + 1, pins) for one in _several(name, value))})"
        if name in ("OR", "NOT"):
            nodes = [value] if name == "NOT" and isinstance(value, Mapping) else _several(name, value)
            either = " OR ".join(f"({self.all_of(one, depth + 1)})" for one in nodes)
            return f"({either})" if name == "OR" else f"NOT ({either})"
        self._conditions += 1
        if self._conditions > MAX_CONDITIONS:
            raise _wrong(f"a filter has more than {MAX_CONDITIONS} conditions")
        if name in FIELDS:
            self._found.entities.add(name)
            exact = value.get("eq") if isinstance(value, Mapping) else value
            if pins and isinstance(exact, str) and exact != ANY:
                self._found.pinned.setdefault(name, exact)
        if name == "metadata":
            return self._metadata(value)
        if name == "memory_ids":
            return f"list_contains({self._bind([_text(name, one) for one in _several(name, value)])}, id)"
        return self._condition(name, value)

    def _condition(self, name: str, value: object) -> str:
        if value is None and name in ("expiration_date", "categories", *FIELDS):
            return f"{_TEXTS.get(name, name)} IS NULL"
        if name in _TIMES:
            return self._operations(name, _TIMES[name], value, self._time)
        if name == "expiration_date":
            return self._operations(name, name, value, self._day)
        if name in _TEXTS:
            plain = "icontains" if name == "keywords" else "in" if isinstance(value, list) else "eq"
            if not isinstance(value, Mapping) and value != ANY:
                value = {plain: value}
            return self._operations(name, _TEXTS[name], value, self._text)
        raise _wrong(
            f"{name[:80]!r} is not a field of a filter: {', '.join(_KNOWN)}; your own fields are in metadata"
        )

    def _operations(self, name: str, column: str, value: object, compare: Compare) -> str:
        """The conjunction of the operators of one condition; a plain value has to be equal."""
        if value == ANY:
            return f"{column} IS NOT NULL"
        operators = value if isinstance(value, Mapping) else {"eq": value}
        if not operators or not set(operators) <= _OPERATORS:
            raise _wrong(f"{name}: the operators are {', '.join(sorted(_OPERATORS))}")
        return " AND ".join(self._operation(name, column, *one, compare) for one in operators.items())

    def _operation(self, name: str, column: str, operator: str, value: object, compare: Compare) -> str:
        if operator in ("in", "nin"):
            equal = " OR ".join(compare(column, "eq", one) for one in _several(name, value))
            return f"({equal})" if operator == "in" else f"NOT ({equal})"
        if operator == "ne":
            return f"NOT {compare(column, 'eq', value)}"
        return compare(column, operator, value)

    def _text(self, column: str, operator: str, value: object) -> str:
        text = _text(column, value)
        bound = self._bind(unicodedata.normalize("NFC", text) if column in FIELDS else text)
        if operator in _CONTAIN:
            return f"coalesce({_CONTAIN[operator].format(column, bound)}, false)"
        return f"coalesce({column} {_COMPARE[operator]} {bound}, false)"

    def _time(self, column: str, operator: str, value: object) -> str:
        """A date alone is the whole day: not later than it is until its end."""
        if operator not in _COMPARE:
            raise _wrong(f"{column}: a time has no {operator}")
        moment = time_of(column, value)
        if not isinstance(moment, datetime):
            column = f"CAST({column} AS DATE)"
        return f"coalesce({column} {_COMPARE[operator]} {self._bind(moment)}, false)"

    def _day(self, column: str, operator: str, value: object) -> str:
        if operator not in _COMPARE:
            raise _wrong(f"{column}: a date has no {operator}")
        return f"coalesce({column} {_COMPARE[operator]} {self._bind(day_of(column, value))}, false)"

    def _metadata(self, value: object) -> str:
        if value == ANY:
            return "metadata IS NOT NULL"
        if not isinstance(value, Mapping) or not value:
            raise _wrong("metadata is an object, such as {'metadata': {'topic': 'food'}}")
        conditions = []
        for key, wanted in value.items():
            self._conditions += 1
            pointer = self._bind("/" + _text("metadata", key).replace("~", "~0").replace("/", "~1"))
            if wanted == ANY:
                conditions.append(f"coalesce(json_type(metadata, {pointer}) <> 'NULL', false)")
            else:
                if isinstance(wanted, Mapping) and not set(wanted) <= _OPERATORS:
                    wanted = {"eq": wanted}
                conditions.append(self._operations("metadata", pointer, wanted, self._member))
        return f"({' AND '.join(conditions)})"

    def _member(self, pointer: str, operator: str, value: object) -> str:
        """SQL of one key of the metadata, by its JSON pointer. Values of two types are never equal."""
        text, kind = f"json_extract_string(metadata, {pointer})", f"json_type(metadata, {pointer})"
        if isinstance(value, str):
            if operator in _CONTAIN:
                test = _CONTAIN[operator].format(text, self._bind(_text("metadata", value)))
            else:
                test = f"{text} {_COMPARE[operator]} {self._bind(_text('metadata', value))}"
            return f"coalesce({kind} = 'VARCHAR' AND {test}, false)"
        if operator in _CONTAIN:
            raise _wrong(f"metadata: {operator} takes a text")
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            number = f"TRY_CAST({text} AS DOUBLE) {_COMPARE[operator]} {self._bind(float(value))}"
            return f"coalesce({kind} NOT IN ('VARCHAR', 'BOOLEAN') AND {number}, false)"
        if operator != "eq":
            raise _wrong(f"metadata: {operator} takes a text or a number")
        same = self._bind(_text("metadata", orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()))
        return f"coalesce(CAST(json_extract(metadata, {pointer}) AS VARCHAR) = {same}, false)"

    def _bind(self, value: object) -> str:
        return self._found.bind(value)


def time_of(name: str, value: object) -> datetime | date:
    """A time: ISO 8601, a date alone, or epoch seconds (or milliseconds). Raises BadMessage."""
    try:
        if isinstance(value, str):
            if len(value) == len("2026-03-01"):
                return date.fromisoformat(value)
            moment = datetime.fromisoformat(value)
            return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return datetime.fromtimestamp(value / 1000 if abs(value) >= 1e11 else value, UTC)
    except (ValueError, OverflowError, OSError):
        pass
    raise _wrong(f"{name}: a time is ISO 8601, such as 2026-03-01T12:00:00Z or 2026-03-01, or epoch seconds")


def day_of(name: str, value: object) -> date:
    """A date. Raises BadMessage."""
    if isinstance(value, str) and len(value) == len("2026-03-01"):
        try:
            return date.fromisoformat(value)
        except ValueError:
            pass
    raise _wrong(f"{name}: a date is YYYY-MM-DD")


def _several(name: str, value: object) -> Sequence[Any]:
    if not isinstance(value, list) or not 0 < len(value) <= MAX_VALUES:
        raise _wrong(f"{name}: expected a list of 1 to {MAX_VALUES}")
    return value


def _text(name: str, value: object) -> str:
    if not isinstance(value, str) or len(value) > MAX_CHARS:
        raise _wrong(f"{name}: expected a text of at most {MAX_CHARS} characters")
    return value


def _wrong(error: str) -> BadMessage:
    return BadMessage("invalid-filter", error)
