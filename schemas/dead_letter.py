"""`dead-letters`: the original bytes and key, untouched; what was wrong stands in the headers."""

from datetime import datetime

import pyarrow as pa

HEADERS = ("topic", "partition", "offset", "reason", "error", "worker", "time")
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
"""The columns in which the writer keeps dead letters for the `dead_letters` view."""


def headers(
    topic: str, partition: int, offset: int, reason: str, error: str, worker: str, time: datetime
) -> list[tuple[str, bytes]]:
    """Kafka headers of a dead letter, in the order of `HEADERS`."""
    values = (topic, str(partition), str(offset), reason, error[:MAX_ERROR_CHARS], worker, time.isoformat())
    return [(name, value.encode("utf-8", "replace")) for name, value in zip(HEADERS, values, strict=True)]
