"""Upstream records in the layout of Debezium's PostgreSQL connector 3.x, as a consumer has them."""

import json
from typing import Any, NamedTuple

SOURCE = {
    "version": "3.2.0.Final", "connector": "postgresql", "name": "shop", "ts_ms": 1_700_000_000_123, "snapshot": "false",
    "db": "shop", "sequence": '["24023119","24023128"]', "ts_us": 1_700_000_000_123_456,
    "ts_ns": 1_700_000_000_123_456_000, "schema": "public", "table": "product", "txId": 555, "lsn": 24023128, "xmin": None,
}  # fmt: skip

TOPIC = "shop.public.product"


class Record(NamedTuple):
    """What a consumer hands out, as far as it is used here."""

    value: bytes | None
    key: bytes | None = None
    topic: str = TOPIC
    partition: int = 0
    offset: int = 0
    timestamp: int = 1_700_000_000_500
    headers: Any = ()


def envelope(op: str, before: Any = None, after: Any = None, ts_ms: int | None = None) -> dict[str, Any]:
    """A change in Debezium's envelope, without a schema."""
    source = SOURCE | ({} if ts_ms is None else {"ts_ms": ts_ms})
    return {
        "before": before, "after": after, "source": source, "transaction": None, "op": op, "ts_ms": 1_700_000_009_999,
        "ts_us": 1_700_000_009_999_000, "ts_ns": 1_700_000_009_999_000_000,
    }  # fmt: skip


def record(value: Any, key: Any = None, **more: Any) -> Record:
    """A record of JSON; None stays None."""
    return Record(
        None if value is None else json.dumps(value).encode(),
        None if key is None else json.dumps(key).encode(),
        **more,
    )


def with_schema(payload: Any, fields: list[dict[str, Any]]) -> dict[str, Any]:
    """Connect's JSON: a struct with its schema."""
    return {"schema": {"type": "struct", "fields": fields, "optional": False}, "payload": payload}
