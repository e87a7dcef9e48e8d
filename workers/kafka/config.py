"""The settings of a Kafka cluster: where it is, how to log in to it, and the names and sizes on it."""

import os
import re
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from schemas.topics import MAX_RECORD_BYTES, TOPICS

if TYPE_CHECKING:
    from workers.kafka import KafkaAdminClient, KafkaConsumer
    from workers.kafka.producer import Producer

DEAD_LETTER_MAX_BYTES = 2 * MAX_RECORD_BYTES
"""`max.message.bytes` of dead-letters: any record of another topic fits, with its headers."""
NAMES = {topic.name for topic in TOPICS}
MECHANISMS = ("SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN")


@dataclass(frozen=True)
class KafkaSettings:
    """The cluster's address, the login, and the names of topics and groups on it. Raises ValueError for an invalid value."""

    bootstrap: str = "127.0.0.1:9092"
    topic_prefix: str = ""
    partitions: int = 4
    """Partition count of topics that are created; the topics that exist decide for the others."""
    session_timeout_ms: int = 6000
    """6 s is the least that Apache Kafka allows by default. Joining a group takes half of it on the embedded broker."""
    connect_timeout_s: float = 10.0
    security_protocol: str = "PLAINTEXT"
    sasl_mechanism: str | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    ca_file: str | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9._-]{0,128}", self.topic_prefix):
            raise ValueError(
                "the topic prefix may have letters, digits, '.', '_' and '-', at most 128 of them"
            )
        if not 1 <= self.partitions <= 1024:
            raise ValueError("the partition count must be between 1 and 1024")
        if self.security_protocol not in ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"):
            raise ValueError("the security protocol must be PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL")
        if self.mechanism not in MECHANISMS:
            raise ValueError(
                f"the SASL mechanism must be {' or '.join(MECHANISMS)}, not {self.mechanism[:40]!r}"
            )
        if self.security_protocol.startswith("SASL") and not (self.username and self.password):
            raise ValueError(
                f"{self.security_protocol} needs a user and a password: FACTSTREAM_USERNAME, FACTSTREAM_PASSWORD"
            )
        self.hosts()

    @classmethod
    def from_env(cls, **overrides: Any) -> "KafkaSettings":
        """Settings from FACTSTREAM_BOOTSTRAP, _TOPIC_PREFIX, _PARTITIONS, _SECURITY_PROTOCOL, _SASL_MECHANISM, _USERNAME,
        _PASSWORD and _CA_FILE; an override that is not None wins. Raises ValueError for an invalid one."""
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
        """The environment variables that `from_env` reads these settings from, for a child process."""
        return {
            f"FACTSTREAM_{f.name.upper()}": str(value)
            for f in fields(self)
            if f.name != "connect_timeout_s" and (value := getattr(self, f.name)) is not None
        }

    def hosts(self) -> list[tuple[str, int]]:
        """The bootstrap servers as (host, port). Raises ValueError."""
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
        """The name in `schemas.topics` of a topic on the cluster; the full name of another system's."""
        short = topic.removeprefix(self.topic_prefix)
        return short if short in NAMES else topic

    def group(self, worker: str) -> str:
        """The id of the consumer group of a worker (encoder, writer, generator or source)."""
        return f"{self.topic_prefix}factstream-{worker}"

    @property
    def mechanism(self) -> str:
        return self.sasl_mechanism or MECHANISMS[0]

    # The clients' modules import this one, so they are imported late. A subclass may return other clients.

    def producer(self) -> "Producer":
        """A new producer. Raises KafkaUnavailable."""
        from workers.kafka.producer import Producer

        return Producer(self)

    def consumer(self, group: str | None = None, max_poll_records: int = 500) -> "KafkaConsumer":
        """A new consumer, as `workers.kafka.clients.connect_consumer`. Raises KafkaUnavailable."""
        from workers.kafka.clients import connect_consumer

        return connect_consumer(self, group, max_poll_records)

    def admin(self) -> "KafkaAdminClient":
        """A new admin client. Raises KafkaUnavailable."""
        from workers.kafka.clients import connect_admin

        return connect_admin(self)
