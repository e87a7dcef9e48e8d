"""The producer of every process. Its contract: once a flush has returned, the records are durable.

Delivery is at least once: a worker makes its work durable, calls `flush_or_raise`, and only then are the offsets of the
records that it consumed committed (`workers.runtime.loop`).
"""

from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from kafka import KafkaProducer

from workers.kafka.clients import connect
from workers.kafka.config import KafkaSettings
from workers.kafka.errors import KafkaTimeoutError, RecordTooLarge

BATCH_OVERHEAD_BYTES = 256 * 1024
"""Bytes that a record may grow by in its batch: framing, and lz4 on bytes that do not compress."""
MAX_UNACKNOWLEDGED_BYTES = 64 * 1024 * 1024
MAX_UNACKNOWLEDGED = 10_000


Headers = Iterable[tuple[str, bytes | None]]


def record_bytes(key: bytes | None, value: bytes | None, headers: Headers) -> int:
    """The bytes of a record without its framing."""
    return len(key or b"") + len(value or b"") + sum(len(n.encode()) + len(v or b"") for n, v in headers)


class Producer:
    """An idempotent producer with a bounded buffer and a flush that reports every failure.

    The client's own buffer has no limit, and a record that is too large for the broker ends the client for good: both
    are prevented here.
    """

    def __init__(self, settings: KafkaSettings, compression: str = "lz4") -> None:
        """`compression`: every client library reads gzip, and not every one lz4, which costs less."""
        self.settings = settings
        self._pending: list[Any] = []
        self._pending_bytes = 0
        self._acknowledged: list[Any] = []
        self._client: KafkaProducer = connect(
            settings,
            lambda options: KafkaProducer(
                **options,
                acks="all",
                enable_idempotence=True,
                delivery_timeout_ms=30_000,  # bounds the retries, which have no other limit
                max_block_ms=15_000,
                linger_ms=5,
                batch_size=256 * 1024,
                compression_type=compression,
                max_request_size=settings.max_record_bytes,
                metrics_enabled=False,
            ),
        )

    def send(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None = None,
        partition: int | None = None,
        headers: Headers = (),
        timestamp_ms: int | None = None,
    ) -> None:
        """Queue a record for a topic (a short name). Only `flush_or_raise` makes sure that it was sent.

        Without a partition the key's murmur2 decides. Blocks when too much is unacknowledged. Raises RecordTooLarge.
        """
        self.send_to(self.settings.topic(topic), value, key, partition, headers, timestamp_ms)

    def send_to(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None = None,
        partition: int | None = None,
        headers: Headers = (),
        timestamp_ms: int | None = None,
    ) -> None:
        """The same as `send`, to a topic by its full name."""
        headers = [(name, content or b"") for name, content in headers]  # the client sends no null
        size = record_bytes(key, value, headers)
        if size > self.settings.max_bytes(self.settings.short(topic)) - BATCH_OVERHEAD_BYTES:
            raise RecordTooLarge(f"a record of {size} bytes does not fit in {topic}")
        if len(self._pending) >= MAX_UNACKNOWLEDGED or self._pending_bytes + size > MAX_UNACKNOWLEDGED_BYTES:
            self._wait()
        self._pending.append(
            self._client.send(
                topic,
                value=value,
                key=key,
                partition=partition,
                headers=headers,
                timestamp_ms=timestamp_ms,
            )
        )
        self._pending_bytes += size

    def flush_or_raise(self) -> list[Any]:
        """Wait until every record sent since the last call is acknowledged by all in-sync replicas.

        Returns their `RecordMetadata` (partition, offset, timestamp) in the order of sending. Raises the first failure
        (KafkaError); any of the records may have arrived then.
        """
        self._wait()
        acknowledged, self._acknowledged = self._acknowledged, []
        return acknowledged

    def _wait(self) -> None:
        pending, self._pending, self._pending_bytes = self._pending, [], 0
        try:
            self._client.flush(timeout=40)
            self._acknowledged += [future.get(timeout=0) for future in pending]
        except BaseException:
            self._acknowledged = []
            raise

    def close(self, timeout_s: float = 3.0) -> None:
        """Close the client. Records that were not flushed may be lost; none of them is sent later."""
        try:
            self._client.close(timeout=timeout_s)
        except KafkaTimeoutError:  # kafka-python 3.0.12 stays open then, and goes on sending
            self._client._sender.force_close()
            self._client._sender.join(timeout_s)
            with suppress(KafkaTimeoutError):
                self._client.close(timeout=timeout_s)
