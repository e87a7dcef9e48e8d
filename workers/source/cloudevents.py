"""CloudEvents on Kafka (protocol binding 1.0): the attributes of an event, and its data as a row.

A structured event is one JSON object with attributes and data; in binary mode the attributes are headers `ce_…` and the value is
the data. A binary event without a value says that its subject is gone; a structured one always has a value.
"""

import base64
import binascii
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

from schemas.common import BadMessage
from workers.source.change import Change, of_row

Headers = Iterable[tuple[str, bytes | None]]
Decode = Callable[[bytes], Any]

_REQUIRED = ("id", "source", "type", "specversion")


def of_event(
    topic: str, key: Any, value: bytes | None, headers: Headers, time: datetime | None, decode: Decode
) -> Change:
    """The change that an event stands for, observed at its own `time`, else at the record's. Raises BadMessage.

    `decode` makes a Python value of bytes, as for any record.
    """
    texts = {name.lower(): _text(content) for name, content in headers}
    kind = texts.get("content-type", "").partition(";")[0].strip().lower()
    if kind.startswith("application/cloudevents"):
        attributes, data = _structured(kind, value, decode)
    elif "ce_specversion" in texts or "ce_id" in texts:
        attributes = {name[3:]: text for name, text in texts.items() if name.startswith("ce_")}
        data = None if value is None else decode(value)
    elif value is None:
        return of_row(topic, key, None, time)
    else:  # an event whose producer forgot the header
        attributes, data = _structured("application/cloudevents+json", value, decode)
    _check(attributes)
    observed_at = _time(attributes["time"]) if attributes.get("time") else time
    return of_row(topic, attributes.get("subject") if key is None else key, data, observed_at, attributes)


def _structured(kind: str, value: bytes | None, decode: Decode) -> tuple[dict[str, Any], Any]:
    if kind != "application/cloudevents+json":
        raise BadMessage(
            "not-an-event", f"CloudEvents as {kind[:80]!r}; application/cloudevents+json is read"
        )
    event = decode(value) if value is not None else None
    if not isinstance(event, dict) or "specversion" not in event:
        raise BadMessage(
            "not-an-event", "this is no CloudEvent: neither headers `ce_…` nor an object with `specversion`"
        )
    attributes = {name: item for name, item in event.items() if name not in ("data", "data_base64")}
    if "data_base64" not in event:
        data = event.get("data")
        return attributes, {} if data is None else data
    try:
        return attributes, decode(base64.b64decode(event["data_base64"], validate=True))
    except (binascii.Error, TypeError, ValueError) as error:
        if isinstance(error, BadMessage):
            raise
        raise BadMessage("not-an-event", f"data_base64 is not base64: {error}") from None


def _check(attributes: dict[str, Any]) -> None:
    if missing := [name for name in _REQUIRED if not attributes.get(name)]:
        raise BadMessage("not-an-event", f"a CloudEvent without {', '.join(missing)}")
    if not str(attributes["specversion"]).startswith("1."):
        raise BadMessage(
            "not-an-event", f"specversion is {str(attributes['specversion'])[:20]!r}; 1.x is read"
        )


def _time(text: Any) -> datetime:
    try:
        time = datetime.fromisoformat(text)
        return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except (ValueError, TypeError, OverflowError):
        raise BadMessage("not-an-event", f"the attribute time is {str(text)[:40]!r}, not a time") from None


def _text(content: bytes | None) -> str:
    return (content or b"").decode("utf-8", "replace")
