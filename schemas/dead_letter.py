"""`dead-letters`: invalid records as they came; our headers beside theirs say what is wrong."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from schemas.common import BadMessage

PREFIX = "factstream."
"""Prefix of the names of our headers, which stand beside those of the original."""
HEADERS = tuple(
    PREFIX + name for name in ("topic", "partition", "offset", "reason", "error", "worker", "time")
)
MAX_ERROR_CHARS = 500

DEAD_LETTERS = pa.schema(
    [
        pa.field("topic", pa.string(), nullable=False),
        pa.field("partition", pa.int32(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("error", pa.string(), nullable=False),
        pa.field("worker", pa.string(), nullable=False),
        pa.field("time", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("key", pa.binary()),
        pa.field("value", pa.binary()),
    ]
)
"""Columns in which the writer keeps dead letters, for the `dead_letters` view."""


def headers(
    topic: str, partition: int, offset: int, reason: str, error: str, worker: str, time: datetime
) -> list[tuple[str, bytes]]:
    """Our headers of a dead letter, in the order of `HEADERS`."""
    values = (topic, str(partition), str(offset), reason, error[:MAX_ERROR_CHARS], worker, time.isoformat())
    return [(name, value.encode("utf-8", "replace")) for name, value in zip(HEADERS, values, strict=True)]


def decode_headers(pairs: Iterable[tuple[str, bytes | None]]) -> dict[str, Any]:
    """Our headers of a dead letter, as columns of `DEAD_LETTERS`. Raises BadMessage."""
    texts = {
        name: (value or b"").decode("utf-8", "replace")[:MAX_ERROR_CHARS]
        for name, value in pairs
        if name in HEADERS
    }
    try:
        row: dict[str, Any] = {name.removeprefix(PREFIX): texts[name] for name in HEADERS}
        row |= {"partition": int(row["partition"]), "offset": int(row["offset"])}
        row["time"] = datetime.fromisoformat(row["time"]).astimezone(UTC)
    except KeyError as error:
        raise BadMessage(
            "invalid-headers", f"not a worker's dead letter: the header {error} is missing"
        ) from None
    except (ValueError, OverflowError) as error:
        raise BadMessage("invalid-headers", f"not a worker's dead letter: {error}") from None
    if not (0 <= row["partition"] < 2**31 and 0 <= row["offset"] < 2**63):
        raise BadMessage("invalid-headers", "not a worker's dead letter: partition or offset out of range")
    return row
