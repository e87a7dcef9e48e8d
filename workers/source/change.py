"""A change of one row, out of a decoded record: a plain row or Debezium's envelope."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import orjson

from schemas.common import BadMessage

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Change:
    """What happened to a row. A deleted row has no `after`; `before` is there where the source sends all of it."""

    topic: str
    key: Any
    """The record's key: a dictionary of the primary key's columns, or a single value, or None."""
    before: Row | None = None
    after: Row | None = None
    observed_at: datetime | None = None
    created: bool = False
    """Whether the row is new, so that nothing can have been stated by it."""
    tombstone: bool = False
    """Whether the record has no value: of the row only the key is known, and of the time only the record's."""
    event: Row = field(default_factory=dict)
    """The attributes of a CloudEvent."""

    @property
    def key_columns(self) -> dict[str, Any]:
        return dict(self.key) if isinstance(self.key, dict) else {}


def of_row(topic: str, key: Any, value: Any, time: datetime | None, event: Row | None = None) -> Change:
    """The change that a plain row stands for, None being a deleted one; at the record's time, in whose order rows arrive.

    Debezium's event flattening marks a deleted row by a column `__deleted`. Raises BadMessage.
    """
    if value is None:
        return Change(topic, key, None, None, time, tombstone=True, event=event or {})
    row = _as_row(value, "the value")
    if is_envelope(row):
        raise BadMessage("not-a-row", "this is a change in Debezium's envelope: set `format: debezium`")
    if str(row.get("__deleted")).lower() == "true":
        return Change(topic, key, row, None, time, event=event or {})
    return Change(topic, key, None, row, time, event=event or {})


def is_envelope(row: Row) -> bool:
    """Whether an object is Debezium's envelope around a row, and not a row."""
    return isinstance(row.get("op"), str) and "source" in row and ("after" in row or "before" in row)


def of_debezium(topic: str, key: Any, value: Any, time: datetime | None) -> Change | None:
    """The change in an envelope; None for a message that is about no row. Raises BadMessage.

    It is observed when the database committed it (`source.ts_ms`). A tombstone has no envelope: then only the record's own
    time is known.
    """
    if value is None:
        return Change(topic, key, None, None, time, tombstone=True)
    if not isinstance(value, dict) or "op" not in value:
        raise BadMessage("not-an-envelope", _no_envelope(value))
    op = value["op"]
    if op == "m":
        return None
    if op == "t":
        raise BadMessage(
            "truncated", "the table was emptied (op t), and its rows are not named: forget its facts by hand"
        )
    if op not in ("c", "r", "u", "d"):
        raise BadMessage("unknown-operation", f"op is {str(op)[:40]!r}; c, r, u, d, t and m are known")
    source = value.get("source")
    observed_at = _millis(source.get("ts_ms") if isinstance(source, dict) else None) or time
    before = None if value.get("before") is None else _as_row(value["before"], "before")
    if op == "d":
        return Change(topic, key, before, None, observed_at)
    after = _as_row(value.get("after"), "after")
    return Change(topic, key, _complete(before, key), after, observed_at, created=op == "c")


def _no_envelope(value: Any) -> str:
    if isinstance(value, dict) and "__deleted" in value:
        return "this is a row, unwrapped by ExtractNewRecordState: set `format: rows`"
    return "this is no change in Debezium's envelope: `op` is missing; a plain row needs `format: rows`"


def _as_row(value: Any, what: str) -> Row:
    if isinstance(value, str):  # MongoDB's connector sends documents as text
        try:
            value = orjson.loads(value)
        except orjson.JSONDecodeError:
            raise BadMessage("not-a-row", f"{what} is text, and not JSON") from None
    if not isinstance(value, dict):
        raise BadMessage("not-a-row", f"{what} is not an object with columns, but {type(value).__name__}")
    return value


def _complete(before: Row | None, key: Any) -> Row | None:
    """The old row, if it is all of it: with PostgreSQL's default replica identity only the key's columns are filled.

    With another index as the identity only its columns are, and the key's are not those of the record.
    """
    columns = key if isinstance(key, dict) else {}
    filled = before and any(value is not None for name, value in before.items() if name not in columns)
    is_index = any((before or {}).get(name) != value for name, value in columns.items())
    return before if filled and not is_index else None


def _millis(value: Any) -> datetime | None:
    """A time in milliseconds since the epoch; None for 0 (a snapshot without one) and for what is not a time."""
    if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
        return None
    try:
        return datetime.fromtimestamp(value / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return None
