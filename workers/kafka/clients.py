"""The Kafka clients of every process: their settings, and the contract "flush, then commit".

It knows how factstream uses Kafka, and not what the messages mean. Delivery is at least once: a worker
makes its work durable, calls `Producer.flush_or_raise`, and only then are the offsets it consumed committed
(by `workers.runtime.loop`).
"""

import os
import re
import socket
import ssl
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field, fields
from datetime import datetime
from functools import lru_cache
from typing import Any, TypeVar

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
from kafka.coordinator.assignors.range import RangePartitionAssignor
from kafka.errors import (
    KafkaError,
    KafkaTimeoutError,
    SaslAuthenticationFailedError,
    UnsupportedSaslMechanismError,
)
from kafka.partitioner.default import murmur2

from schemas import dead_letter as dead_letter_schema
from schemas.common import BadMessage
from schemas.topics import DEAD_LETTERS, MAX_RECORD_BYTES
from workers.kafka.connection import net_client
from workers.kafka.consumer import Unreadable, bound
from workers.observe import metrics, tracing

DEAD_LETTER_MAX_BYTES = 2 * MAX_RECORD_BYTES
"""`max.message.bytes` of dead-letters: any record of another topic fits, with its headers."""
_BATCH_OVERHEAD_BYTES = 256 * 1024
"""What a record may grow by in its batch: framing, and lz4 on bytes that do not compress."""
MAX_UNACKNOWLEDGED_BYTES = 64 * 1024 * 1024
MAX_UNACKNOWLEDGED = 10_000
MECHANISMS = ("SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN")

T = TypeVar("T")


class KafkaUnavailable(RuntimeError):
    """No broker answers, or it refuses us. The text is for a person."""


class RecordTooLarge(ValueError):
    """A record larger than its topic takes. Nothing was sent, and the producer is still good."""


@dataclass(frozen=True)
class KafkaSettings:
    """Where the cluster is, how to log in to it, and the names on it."""

    bootstrap: str = "127.0.0.1:9092"
    topic_prefix: str = ""
    partitions: int = 4
    """Partition count of topics that are created; the topics that exist decide for the others."""
    session_timeout_ms: int = 6000
    """6 s is the least that Apache Kafka allows by default. On the embedded broker joining takes half of
    it."""
    connect_timeout_s: float = 10.0
    security_protocol: str = "PLAINTEXT"
    sasl_mechanism: str | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    ca_file: str | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9._-]{0,128}", self.topic_prefix):
            raise ValueError("the topic prefix may hold letters, digits, '.', '_' and '-', at most 128")
        if not 1 <= self.partitions <= 1024:
            raise ValueError("the partition count must be between 1 and 1024")
        if self.security_protocol not in ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"):
            raise ValueError("the security protocol is PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL")
        if self.mechanism not in MECHANISMS:
            raise ValueError(f"the SASL mechanism is {', '.join(MECHANISMS)}; not {self.mechanism[:40]!r}")
        if self.security_protocol.startswith("SASL") and not (self.username and self.password):
            raise ValueError(
                f"{self.security_protocol} needs a user and a password: FACTSTREAM_USERNAME, FACTSTREAM_PASSWORD"
            )
        self.hosts()

    @classmethod
    def from_env(cls, **overrides: Any) -> "KafkaSettings":
        """Settings from FACTSTREAM_BOOTSTRAP, _TOPIC_PREFIX, _PARTITIONS, _SECURITY_PROTOCOL,
        _SASL_MECHANISM, _USERNAME, _PASSWORD and _CA_FILE; an override that is not None wins. ValueError
        where one makes no sense."""
        values: dict[str, Any] = {}
        for name in (f.name for f in fields(cls)):
            text = os.environ.get(f"FACTSTREAM_{name.upper()}", "")
            if overrides.get(name) is not None:
                values[name] = overrides[name]
            elif text and name in ("partitions", "session_timeout_ms"):
                if not text.isdecimal():
                    raise ValueError(f"FACTSTREAM_{name.upper()} must be a number, not {text[:40]!r}")
                values[name] = int(text)
            elif text and name != "connect_timeout_s":
                values[name] = text
        return cls(**values)

    def env(self) -> dict[str, str]:
        """The variables from which `from_env` makes these settings again: how a child process gets them."""
        return {
            f"FACTSTREAM_{f.name.upper()}": str(value)
            for f in fields(self)
            if f.name != "connect_timeout_s" and (value := getattr(self, f.name)) is not None
        }

    def hosts(self) -> list[tuple[str, int]]:
        """The bootstrap servers as (host, port)."""
        found = []
        for server in self.bootstrap.split(","):
            host, _, port = server.strip().rpartition(":")
            if not host or not port.isdecimal() or not 0 < int(port) < 65536:
                raise ValueError(
                    f"the bootstrap must be HOST:PORT[,HOST:PORT…], not {self.bootstrap[:100]!r}"
                )
            found.append((host.strip("[]"), int(port)))
        return found

    def topic(self, name: str) -> str:
        """The full name on the cluster of a topic of `schemas.topics`."""
        return self.topic_prefix + name

    def short(self, topic: str) -> str:
        return topic.removeprefix(self.topic_prefix)

    def group(self, worker: str) -> str:
        return f"{self.topic_prefix}factstream-{worker}"

    @property
    def mechanism(self) -> str:
        return self.sasl_mechanism or MECHANISMS[0]

    def producer(self) -> "Producer":
        return Producer(self)

    def consumer(self, group: str | None = None, max_poll_records: int = 500) -> KafkaConsumer:
        """A consumer that commits only when told to. `group` is a full group id; without it, assign by hand.

        Partitions are assigned by range: partition p of all topics of a group goes to one member, and so
        one writer gets everything of a namespace. One fetch brings at most 32 MiB (more only if one record
        is larger); what it may unpack to is bounded in `workers.kafka.consumer`.
        """
        return _connect(
            self,
            lambda client: bound(
                KafkaConsumer(
                    **client,
                    group_id=group,
                    enable_auto_commit=False,
                    auto_offset_reset="earliest",
                    partition_assignment_strategy=(RangePartitionAssignor,),
                    session_timeout_ms=self.session_timeout_ms,
                    heartbeat_interval_ms=self.session_timeout_ms // 4,
                    max_poll_records=max_poll_records,
                    max_partition_fetch_bytes=MAX_RECORD_BYTES,
                    fetch_max_bytes=4 * MAX_RECORD_BYTES,
                    metrics_enabled=False,
                )
            ),
        )

    def admin(self) -> KafkaAdminClient:
        return _connect(self, lambda client: KafkaAdminClient(**client))

    def _client(self, heard: list[BaseException] | None = None) -> dict[str, Any]:
        """What every client is given. All that has to do with security is here. `heard` gets what ends its
        connections while it has none that holds."""
        config: dict[str, Any] = {
            "bootstrap_servers": self.bootstrap.split(","),
            "client_id": "factstream",
            "security_protocol": self.security_protocol,
            "bootstrap_timeout_ms": int(self.connect_timeout_s * 1000),
            "request_timeout_ms": 15_000,
            "reconnect_backoff_max_ms": 1000,
            "kafka_client": lambda **config: net_client([] if heard is None else heard, **config),
        }
        if self.security_protocol.startswith("SASL"):
            config["sasl_mechanism"] = self.mechanism
            config["sasl_plain_username"] = self.username
            config["sasl_plain_password"] = self.password
        if self.security_protocol.endswith("SSL") and self.ca_file:
            try:
                ssl.create_default_context(cafile=self.ca_file)
            except OSError as error:  # of which ssl's errors are a kind
                why = f"{self.ca_file} is no readable PEM file of certificates: {error} (FACTSTREAM_CA_FILE)"
                raise KafkaUnavailable(why) from None
            config["ssl_cafile"] = self.ca_file
        return config


def _connect(settings: KafkaSettings, make: Callable[[dict[str, Any]], T]) -> T:
    """`make` a client of its settings, which connects. Whatever goes wrong becomes one clear error."""
    heard: list[BaseException] = []
    try:
        return make(settings._client(heard))
    except (KafkaError, OSError) as error:
        raise unavailable(settings, heard[0] if heard else error) from None


def unavailable(settings: KafkaSettings, error: BaseException) -> KafkaUnavailable:
    """What is wrong with the cluster, in words: is there nothing, or does what is there refuse us?"""
    for host, port in settings.hosts():
        try:
            socket.create_connection((host, port), timeout=2).close()
        except OSError:
            continue
        return KafkaUnavailable(f"{host}:{port} does not serve us: {_refusal(settings, error)}")
    return KafkaUnavailable(
        f"no broker answers at {settings.bootstrap}; "
        "start one with `factstream up`, or pass --bootstrap HOST:PORT"
    )


def _refusal(settings: KafkaSettings, error: BaseException) -> str:
    said = f"{type(error).__name__}: {error}"[:300]
    if isinstance(error, SaslAuthenticationFailedError):
        return (
            f"it refused the user {settings.username!r} with {settings.mechanism} "
            "(FACTSTREAM_USERNAME, FACTSTREAM_PASSWORD, FACTSTREAM_SASL_MECHANISM)"
        )
    if isinstance(error, UnsupportedSaslMechanismError):
        return f"{said} (FACTSTREAM_SASL_MECHANISM)"
    if "certificate" in said.lower():
        return f"{said}. Its authority's certificate belongs into a file that FACTSTREAM_CA_FILE names"
    return (
        f"{said}. Is it a Kafka broker, and is FACTSTREAM_SECURITY_PROTOCOL, which is "
        f"{settings.security_protocol}, that of this port?"
    )


class Producer:
    """An idempotent producer with a bounded buffer, and a flush that does not forget failures.

    The client's own buffer has no limit, and a record that the broker finds too large ends the client for
    good: both are prevented here.
    """

    def __init__(self, settings: KafkaSettings) -> None:
        self.settings = settings
        self._pending: list[Any] = []
        self._pending_bytes = 0
        self._acknowledged: list[Any] = []
        self._client: KafkaProducer = _connect(
            settings,
            lambda client: KafkaProducer(
                **client,
                acks="all",
                enable_idempotence=True,
                delivery_timeout_ms=30_000,  # bounds the retries, which have no other limit
                max_block_ms=15_000,
                linger_ms=5,
                batch_size=256 * 1024,
                compression_type="lz4",
                max_request_size=DEAD_LETTER_MAX_BYTES,
                metrics_enabled=False,
            ),
        )

    def send(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None = None,
        partition: int | None = None,
        headers: Iterable[tuple[str, bytes]] = (),
        timestamp_ms: int | None = None,
    ) -> None:
        """Queue a record for the topic of that short name. It is sent for certain only after
        `flush_or_raise`.

        Without a partition the key's murmur2 decides. Blocks when too much is unacknowledged. Raises
        RecordTooLarge.
        """
        headers = list(headers)
        size = len(value or b"") + len(key or b"") + sum(len(n) + len(v) for n, v in headers)
        limit = DEAD_LETTER_MAX_BYTES if topic == DEAD_LETTERS else MAX_RECORD_BYTES
        if size > limit - _BATCH_OVERHEAD_BYTES:
            raise RecordTooLarge(f"a record of {size} bytes does not fit in {topic}")
        if len(self._pending) >= MAX_UNACKNOWLEDGED or self._pending_bytes + size > MAX_UNACKNOWLEDGED_BYTES:
            self._wait()
        self._pending.append(
            self._client.send(
                self.settings.topic(topic),
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

        Returns their `RecordMetadata` (partition, offset, timestamp) in the order of sending. Raises the
        first failure (KafkaError); of the other records some may have arrived.
        """
        self._wait()
        done, self._acknowledged = self._acknowledged, []
        return done

    def _wait(self) -> None:
        pending, self._pending, self._pending_bytes = self._pending, [], 0
        try:
            self._client.flush(timeout=40)
            self._acknowledged += [future.get(timeout=0) for future in pending]
        except BaseException:
            self._acknowledged = []
            raise

    def close(self, timeout_s: float = 3.0) -> None:
        """Ends it, whatever is unacknowledged: of that `flush_or_raise` has told, and nothing of it is sent later."""
        try:
            self._client.close(timeout=timeout_s)
        except KafkaTimeoutError:  # kafka-python 3.0.12 stays open then, and goes on sending
            self._client._sender.force_close()
            self._client._sender.join(timeout_s)
            with suppress(KafkaTimeoutError):
                self._client.close(timeout=timeout_s)


def caught_up(consumer: KafkaConsumer) -> bool:
    """Whether a consumer has read all that its last fetches saw of its partitions. An empty poll says
    nothing: a broker that is away gives the same."""
    for tp in consumer.assignment():
        end, position = consumer.highwater(tp), consumer.position(tp, timeout_ms=1000)
        if end is None or position is None or position < end:
            return False
    return True


@lru_cache(maxsize=4096)
def partition_for(key: str, partitions: int) -> int:
    """The partition that any Kafka client gives a record of this key: murmur2, as the Java client has it."""
    return int(murmur2(key.encode()) & 0x7FFFFFFF) % partitions


def check_readable(record: Any) -> None:
    """Raises BadMessage for a record that stands for a batch which nobody can read."""
    if isinstance(record, Unreadable):
        raise BadMessage("unreadable-batch", record.error)


def dead_letter(producer: Producer, record: Any, reason: str, error: str, worker: str, now: datetime) -> None:
    """Send a consumed record to dead-letters: its bytes and key as they came, its headers replaced by the
    reason.

    It goes to the partition number it came from, with the trace context that it had. A record that is too large even for that topic is cut, and
    the error says so: a message that nobody can take must not stop a worker.
    """
    key, value = record.key, record.value
    room = DEAD_LETTER_MAX_BYTES - 2 * _BATCH_OVERHEAD_BYTES
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
        partition=record.partition,
        headers=dead_letter_schema.headers(
            producer.settings.short(record.topic), record.partition, record.offset, reason, error, worker, now
        )
        + tracing.header(tracing.of(record.headers)),
    )
    metrics.DEAD_LETTERS.labels(worker, reason).inc()
