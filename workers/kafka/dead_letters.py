"""Dead letters: records that no worker can use, sent to a topic of their own with the reason."""

from datetime import datetime
from typing import Any

from schemas import dead_letter as dead_letter_schema
from schemas.topics import DEAD_LETTERS
from workers.kafka.config import DEAD_LETTER_MAX_BYTES
from workers.kafka.producer import BATCH_OVERHEAD_BYTES, Producer
from workers.observe import metrics


def dead_letter(
    producer: Producer,
    record: Any,
    reason: str,
    error: str,
    worker: str,
    now: datetime,
    partition: int | None = None,
) -> None:
    """Send a consumed record to dead-letters: its value and key unchanged, the reason in headers before its own.

    It goes to the partition number it came from, unless `partition` says another. A record that is too large even for that topic
    is cut, and the error says so: no message may stop a worker.
    """
    key, value = record.key, record.value
    room = DEAD_LETTER_MAX_BYTES - 2 * BATCH_OVERHEAD_BYTES
    if len(key or b"") + len(value or b"") > room:
        error = f"(cut: the key had {len(key or b'')} bytes, the value {len(value or b'')}) {error}"
        key = key and key[: room // 8]
        value = value and value[: room // 2]
    if key is None and value is None:
        value = b""  # the client sends no record that has neither
    producer.send(
        DEAD_LETTERS,
        value,
        key=key,
        partition=record.partition if partition is None else partition,
        headers=dead_letter_schema.headers(
            producer.settings.short(record.topic), record.partition, record.offset, reason, error, worker, now
        )
        + [(name, value or b"") for name, value in record.headers if name not in dead_letter_schema.HEADERS],
    )
    metrics.DEAD_LETTERS.labels(worker, reason).inc()
