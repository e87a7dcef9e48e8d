"""The settings of a Kafka cluster: where it is, how to log in to it, and the names and sizes on it."""

import os
import re
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from schemas.topics import DEAD_LETTERS, MAX_RECORD_BYTES, TOPICS

if TYPE_CHECKING:
    from workers.kafka import KafkaAdminClient, KafkaConsumer
    from workers.kafka.producer import Producer

MIB = 1024 * 1024
LARGEST_RECORD_BYTES, SMALLEST_RECORD_BYTES = 2 * MAX_RECORD_BYTES, 4 * MIB
"""Bounds of `max_record_bytes`: what consumers unpack, and what the encoding of the longest fact needs."""
EMBEDDED_CLUSTER_ID = "factstream-embedded"
"""The id of the embedded broker's cluster, which tells it from others."""
TOPIC_PATTERN = r"[A-Za-z0-9._-]{1,249}"
FULL, PARTITIONED = "full", "partitioned"
"""What a generator holds: all memories, or those of the partitions whose requests it answers."""
OAUTHBEARER = "OAUTHBEARER"
MECHANISMS = ("SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN", OAUTHBEARER)
STATIC_SESSION_MS, SESSION_MS = 45_000, 6_000
NUMBERS = ("partitions", "session_timeout_ms", "max_record_bytes")
NAMES = {topic.name for topic in TOPICS}


@dataclass(frozen=True)
class KafkaSettings:
    """The cluster's address, the login, and the names of topics and groups on it. Raises ValueError for an invalid value."""

    bootstrap: str = "127.0.0.1:9092"
    topic_prefix: str = ""
    partitions: int = 4
    """Partition count of topics that are created; the topics that exist decide for the others."""
    session_timeout_ms: int = 0
    """Session timeout: by default 6 s, the least that Apache Kafka allows, and 45 s for a worker with `instance`, which may restart
    in that time and keep its partitions. Joining a group takes half of it on the embedded broker, where only those join that `up` has not started."""
    instance: str | None = None
    """A worker's own name in its group (group.instance.id): it makes it a static member."""
    max_record_bytes: int = LARGEST_RECORD_BYTES
    """The largest record that the cluster takes: `max.message.bytes` of dead-letters. Other topics get half of it, so
    that each of their records fits into dead-letters with its headers."""
    connect_timeout_s: float = 10.0
    security_protocol: str = "PLAINTEXT"
    sasl_mechanism: str | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    oauth_url: str | None = None
    """The endpoint that gives a token for the user and the password, a client's id and secret (OAUTHBEARER)."""
    oauth_scope: str | None = None
    ca_file: str | None = None
    cert_file: str | None = None
    """PEM file of this client's own certificate (mutual TLS)."""
    key_file: str | None = None
    """PEM file of its key, unless the key is in `cert_file`."""
    reply_topics: str = ""
    """Topics besides generation-responses that a request may ask its answer to: full names with commas between."""
    replica: str = FULL
    """What a generator holds, full or partitioned; its clients send requests accordingly."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9._-]{0,128}", self.topic_prefix):
            raise ValueError(
                "the topic prefix may have letters, digits, '.', '_' and '-', at most 128 of them"
            )
        if not 1 <= self.partitions <= 1024:
            raise ValueError("the partition count must be between 1 and 1024")
        if not SMALLEST_RECORD_BYTES <= self.max_record_bytes <= LARGEST_RECORD_BYTES:
            raise ValueError(
                f"the largest record must have between {SMALLEST_RECORD_BYTES} and {LARGEST_RECORD_BYTES} bytes"
            )
        if self.instance is not None and not re.fullmatch(TOPIC_PATTERN, self.instance):
            raise ValueError("the instance may have letters, digits, '.', '_' and '-', at most 249 of them")
        if not self.session_timeout_ms:
            default = STATIC_SESSION_MS if self.instance else SESSION_MS
            object.__setattr__(self, "session_timeout_ms", default)
        if self.security_protocol not in ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"):
            raise ValueError("the security protocol must be PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL")
        ours = {self.topic(topic.name) for topic in TOPICS}
        for name in self.replies:
            if name in ours or not re.fullmatch(TOPIC_PATTERN, name):
                raise ValueError(
                    f"the reply topics must be topics of their requesters, with commas between, not {name[:100]!r}"
                )
        if self.replica not in (FULL, PARTITIONED):
            raise ValueError(f"FACTSTREAM_REPLICA must be {FULL} or {PARTITIONED}, not {self.replica[:40]!r}")
        if self.mechanism not in MECHANISMS:
            raise ValueError(
                f"the SASL mechanism must be {' or '.join(MECHANISMS)}, not {self.mechanism[:40]!r}"
            )
        if self.security_protocol.startswith("SASL") and not (self.username and self.password):
            raise ValueError(
                f"{self.security_protocol} needs a user and a password: FACTSTREAM_USERNAME, FACTSTREAM_PASSWORD"
            )
        if self.mechanism == OAUTHBEARER and not re.match("https?://", self.oauth_url or ""):
            raise ValueError("OAUTHBEARER needs the URL that gives tokens: FACTSTREAM_OAUTH_URL, https://…")
        if self.key_file and not self.cert_file:
            raise ValueError("FACTSTREAM_KEY_FILE needs a certificate: FACTSTREAM_CERT_FILE")
        if self.cert_file and not self.security_protocol.endswith("SSL"):
            raise ValueError(
                "FACTSTREAM_CERT_FILE needs TLS: FACTSTREAM_SECURITY_PROTOCOL must be SSL or SASL_SSL"
            )
        self.hosts()

    @classmethod
    def from_env(cls, **overrides: Any) -> "KafkaSettings":
        """Settings from the environment: of each field but the connect timeout, from FACTSTREAM_ and its name in capitals.

        An override that is not None wins. Raises ValueError for an invalid one.
        """
        values: dict[str, Any] = {}
        for name in (f.name for f in fields(cls)):
            text = os.environ.get(f"FACTSTREAM_{name.upper()}", "")
            if overrides.get(name) is not None:
                values[name] = overrides[name]
            elif text and name in NUMBERS:
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

    def max_bytes(self, name: str) -> int:
        """`max.message.bytes` of a topic (a short name)."""
        return self.max_record_bytes if name == DEAD_LETTERS else self.max_record_bytes // 2

    def short(self, topic: str) -> str:
        """The name in `schemas.topics` of a topic on the cluster; the full name of another system's."""
        short = topic.removeprefix(self.topic_prefix)
        return short if short in NAMES else topic

    def group(self, worker: str) -> str:
        """The id of the consumer group of a worker (encoder, writer, generator or source)."""
        return f"{self.topic_prefix}factstream-{worker}"

    @property
    def partitioned(self) -> bool:
        """Whether a generator holds only the memories of the partitions whose requests it answers."""
        return self.replica == PARTITIONED

    @property
    def replies(self) -> list[str]:
        return [name.strip() for name in self.reply_topics.split(",") if name.strip()]

    @property
    def mechanism(self) -> str:
        return self.sasl_mechanism or MECHANISMS[0]

    # The clients' modules import this one, so they are imported late. A subclass may return other clients.

    def producer(self, compression: str = "lz4") -> "Producer":
        """A new producer. Raises KafkaUnavailable."""
        from workers.kafka.producer import Producer

        return Producer(self, compression)

    def consumer(
        self,
        group: str | None = None,
        max_poll_records: int = 500,
        committed: bool = False,
        sticky: bool = False,
    ) -> "KafkaConsumer":
        """A new consumer, as `workers.kafka.clients.connect_consumer`. Raises KafkaUnavailable."""
        from workers.kafka.clients import connect_consumer

        return connect_consumer(self, group, max_poll_records, committed, sticky)

    def admin(self) -> "KafkaAdminClient":
        """A new admin client. Raises KafkaUnavailable."""
        from workers.kafka.clients import connect_admin

        return connect_admin(self)
