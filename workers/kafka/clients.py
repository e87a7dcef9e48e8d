"""Consumers and admin clients of a cluster; one that cannot connect raises one clear error."""

import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Any, TypeVar

from kafka import KafkaAdminClient, KafkaConsumer
from kafka.coordinator.assignors.range import RangePartitionAssignor
from kafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor

from schemas.topics import MAX_RECORD_BYTES
from workers.kafka.config import OAUTHBEARER, KafkaSettings
from workers.kafka.connection import net_client
from workers.kafka.consumer import limit_decoding
from workers.kafka.errors import KafkaError, KafkaUnavailable, unavailable
from workers.kafka.oauth import token_provider

Client = TypeVar("Client")


def connect_consumer(
    settings: KafkaSettings,
    group: str | None = None,
    max_poll_records: int = 500,
    committed: bool = False,
    sticky: bool = False,
) -> KafkaConsumer:
    """A consumer that never commits by itself. `group` is a full group id; without it, assign partitions by hand.

    With `committed` it reads no record of an aborted transaction, nor anything after one that is still open.

    Partitions are assigned by range: partition p of all topics of a group goes to one member, so one
    writer gets every record of a namespace. With `sticky` a member keeps its partitions where it can, if all members of its
    group ask for that: for a group of one topic whose partitions are dear to take over. One fetch brings at most 32 MiB (more only if one record
    is larger); `workers.kafka.consumer` limits the unpacked size.

    Without a group every fetch is a full one: an incremental one (KIP-227) leaves out a partition that has not changed,
    so one that is assigned again would never tell its end. Raises KafkaUnavailable.
    """
    return connect(
        settings,
        lambda options: limit_decoding(
            KafkaConsumer(
                **options,
                group_id=group,
                group_instance_id=settings.instance if group else None,
                enable_auto_commit=False,
                auto_offset_reset="earliest",
                isolation_level="read_committed" if committed else "read_uncommitted",
                partition_assignment_strategy=(StickyPartitionAssignor,) * sticky + (RangePartitionAssignor,),
                session_timeout_ms=settings.session_timeout_ms,
                heartbeat_interval_ms=settings.session_timeout_ms // 4,
                max_poll_records=max_poll_records,
                max_partition_fetch_bytes=MAX_RECORD_BYTES,
                enable_incremental_fetch_sessions=group is not None,
                fetch_max_bytes=4 * MAX_RECORD_BYTES,
                metrics_enabled=False,
            )
        ),
    )


def connect_admin(settings: KafkaSettings) -> KafkaAdminClient:
    """An admin client. Raises KafkaUnavailable."""
    return connect(settings, lambda options: KafkaAdminClient(**options))


def connect(settings: KafkaSettings, make: Callable[[dict[str, Any]], Client]) -> Client:
    """Call `make`, which connects a client, with the options that all clients share. Raises KafkaUnavailable if it fails."""
    failures: list[BaseException] = []
    with (
        ExitStack() as begun
    ):  # a thread that the library leaves when it fails, and that would try to connect for ever
        try:
            client = make(_options(settings, failures, begun))
        except (KafkaError, OSError) as error:
            raise unavailable(settings, failures[0] if failures else error) from None
        begun.pop_all()
        return client


def _options(settings: KafkaSettings, failures: list[BaseException], begun: ExitStack) -> dict[str, Any]:
    """The options of every client, those of the login included. `failures` is filled as by `net_client`; `begun` closes the
    client's connections.
    """
    options: dict[str, Any] = {
        "bootstrap_servers": settings.bootstrap.split(","),
        "client_id": "factstream",
        "security_protocol": settings.security_protocol,
        "bootstrap_timeout_ms": int(settings.connect_timeout_s * 1000),
        "request_timeout_ms": 15_000,
        "reconnect_backoff_max_ms": 1000,
        "kafka_client": lambda **options: begun.enter_context(closing(net_client(failures, **options))),
    }
    if settings.security_protocol.startswith("SASL"):
        options["sasl_mechanism"] = settings.mechanism
        if settings.mechanism == OAUTHBEARER:
            options["sasl_oauth_token_provider"] = token_provider(settings)
        else:
            options["sasl_plain_username"] = settings.username
            options["sasl_plain_password"] = settings.password
    if settings.security_protocol.endswith("SSL"):
        options |= _tls(settings)
    return options


def _tls(settings: KafkaSettings) -> dict[str, str | None]:
    """The files of TLS, read once here: the client's own error would not name them. Raises KafkaUnavailable."""
    context = ssl.create_default_context()
    if settings.ca_file:
        with _readable("a readable PEM file of certificates", settings.ca_file, "FACTSTREAM_CA_FILE"):
            context.load_verify_locations(settings.ca_file)
    if settings.cert_file:
        named = "FACTSTREAM_CERT_FILE, FACTSTREAM_KEY_FILE"
        with _readable(
            "a PEM file of a certificate with its key, which has no password", settings.cert_file, named
        ):
            context.load_cert_chain(settings.cert_file, settings.key_file, password="")
    return {
        "ssl_cafile": settings.ca_file,
        "ssl_certfile": settings.cert_file,
        "ssl_keyfile": settings.key_file,
    }


@contextmanager
def _readable(what: str, file: str, variables: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise KafkaUnavailable(f"{file} is not {what}: {error} ({variables})") from None
