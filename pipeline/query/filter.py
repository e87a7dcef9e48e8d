"""Filter of memories by words, namespace, category, metadata and time, with bound parameters.

It knows the columns of the views `memories` and `history`. No part of the SQL comes from what a person typed: every value is a
parameter, and so is the path to a field of the metadata.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from pydantic import TypeAdapter, ValidationError

from schemas.common import Timestamp

TIMES = {"learned": "learned_at", "observed": "observed_at"}
"""Columns of time by which memories are chosen and sorted: when they were learned, or the fact's own."""
MAX_WORDS = 32

_TIME: TypeAdapter[datetime] = TypeAdapter(Timestamp)


class Condition(NamedTuple):
    """SQL after WHERE, and the values of its parameters."""

    sql: str
    parameters: dict[str, object]


@dataclass(frozen=True, slots=True)
class Filter:
    """What memories must have; what is empty lets all pass."""

    words: Sequence[str] = ()
    """Parts of the text, all of them, in any case of letters."""
    namespace: str = ""
    category: str = ""
    metadata: Sequence[tuple[str, str]] = ()
    """Fields and their values. `a.b` is the field b of the object a; a list has the value if one of its items has."""
    time: str = "learned"
    """One of TIMES, for `since` and `before`."""
    since: datetime | None = None
    before: datetime | None = None

    def condition(self) -> Condition:
        """The condition that a row of the view `memories` must meet."""
        parts, values = ["true"], dict[str, object]()

        def add(sql: str, **parameters: object) -> None:
            parts.append(sql)
            values.update(parameters)

        for n, word in enumerate(self.words[:MAX_WORDS]):
            add(f"contains(lower(text), $word{n})", **{f"word{n}": word.lower()})
        if self.namespace:
            add("namespace = $namespace", namespace=self.namespace)
        if self.category:
            add("category = $category", category=self.category)
        for n, (name, value) in enumerate(self.metadata):
            add(
                f"(json_extract_string(metadata, $field{n}) = $value{n} "
                f"OR list_contains(json_extract_string(metadata, $items{n}), $value{n}))",
                **{f"field{n}": _path(name), f"items{n}": f"{_path(name)}[*]", f"value{n}": value},
            )
        for sign, name, at in ((">=", "since", self.since), ("<", "before", self.before)):
            if at is not None:
                add(f"{TIMES[self.time]} {sign} ${name}", **{name: at.isoformat()})
        return Condition(" AND ".join(parts), values)


def field_of(text: str) -> tuple[str, str]:
    """The name and the value in NAME=VALUE. Raises ValueError."""
    name, sign, value = (part.strip() for part in text.partition("="))
    parts = name.split(".")
    if not sign or not all(parts) or "*" in parts:  # which DuckDB takes as any field
        raise ValueError(f"{text!r} is not NAME=VALUE, such as sku=h-1, or address.city=Bonn")
    return name, value


def time_of(text: str) -> datetime:
    """A time in ISO 8601, UTC where it names no offset; a day is its first moment. Raises ValueError."""
    try:
        return _TIME.validate_python(text.strip())
    except ValidationError:
        raise ValueError(f"{text!r} is not a time such as 2026-03-01 or 2026-03-01T12:00:00Z") from None


def _path(name: str) -> str:
    """The JSON path of a field."""
    literal = name.replace("\\", "\\\\").replace('"', '\\"')
    return "$" + "".join(f'."{part}"' for part in literal.split("."))
