"""Dead letters: records that no worker can use, sent to a topic of their own with the reason."""

from datetime import datetime
from typing import Any

from schemas import dead_letter as dead_letter_schema
from schemas.topics import DEAD_LETTERS
from workers.kafka.producer import BATCH_OVERHEAD_BYTES, Producer, record_bytes
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
    """Send a consumed record to dead-letters: value, key and headers unchanged (a null one empty), and the reason before.

    It goes to the partition number it came from, unless `partition` says another. Headers that an earlier dead letter left on
    it are replaced. A record that is too large even for that topic is cut, and the error says so: no message may stop a worker.
    """
    key, value = record.key, record.value
    theirs = [pair for pair in record.headers if not pair[0].startswith(dead_letter_schema.PREFIX)]
    room = producer.settings.max_bytes(DEAD_LETTERS) - 2 * BATCH_OVERHEAD_BYTES
    if record_bytes(key, value, theirs) > room:
        sizes = (
            f"the key had {len(key or b'')} bytes, the value {len(value or b'')}, and {len(theirs)} headers"
        )
        error = f"(cut: {sizes}) {error}"
        key, value, theirs = key and key[: room // 8], value and value[: room // 2], []
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
        + theirs,
    )
    metrics.DEAD_LETTERS.labels(worker, reason).inc()
