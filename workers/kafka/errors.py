"""Errors that callers of this folder see: the Kafka library's, and our own with a text for the user."""

import socket

from kafka.errors import (
    CommitFailedError,
    FencedInstanceIdError,
    IllegalGenerationError,
    KafkaError,
    KafkaTimeoutError,
    RebalanceInProgressError,
    SaslAuthenticationFailedError,
    UnknownMemberIdError,
    UnsupportedSaslMechanismError,
)

from workers.kafka.config import OAUTHBEARER, KafkaSettings

__all__ = [
    "GROUP_MOVED_ON", "FencedInstanceIdError", "KafkaError", "KafkaTimeoutError", "KafkaUnavailable", "RecordTooLarge", "TopicsMismatch",
    "TopicsMissing", "unavailable",
]  # fmt: skip

GROUP_MOVED_ON = (CommitFailedError, RebalanceInProgressError, UnknownMemberIdError, IllegalGenerationError)
"""A commit came too late: the partitions went to other members, which read again from the last commit."""


class KafkaUnavailable(RuntimeError):
    """No broker answers, or it refuses the connection. The text says what to check."""


class TopicsMissing(RuntimeError):
    """A topic does not exist, or has no leader yet."""


class TopicsMismatch(RuntimeError):
    """The cluster's topics are not as the workers need them. The text says what to change."""


class RecordTooLarge(ValueError):
    """A record is larger than its topic allows. It was not sent, and the producer can be used further."""


def unavailable(settings: KafkaSettings, error: BaseException) -> KafkaUnavailable:
    """The error for the user: either nothing answers, or the answer was the client's `error`."""
    for host, port in settings.hosts():
        try:
            socket.create_connection((host, port), timeout=2).close()
        except OSError:
            continue
        return KafkaUnavailable(f"{host}:{port} refuses the connection: {_refusal(settings, error)}")
    return KafkaUnavailable(
        f"no broker answers at {settings.bootstrap}; "
        "start one with `factstream up`, or pass --bootstrap HOST:PORT"
    )


def _refusal(settings: KafkaSettings, error: BaseException) -> str:
    text = f"{type(error).__name__}: {error}"[:300]
    if isinstance(error, SaslAuthenticationFailedError):
        if settings.mechanism == OAUTHBEARER:
            return (
                f"no login with the token of {settings.oauth_url}: {text} (FACTSTREAM_OAUTH_URL and _SCOPE)"
            )
        return (
            f"it refused the user {settings.username!r} with {settings.mechanism} "
            "(FACTSTREAM_USERNAME, FACTSTREAM_PASSWORD, FACTSTREAM_SASL_MECHANISM)"
        )
    if isinstance(error, UnsupportedSaslMechanismError):
        return f"{text} (FACTSTREAM_SASL_MECHANISM)"
    if "certificate verify failed" in text.lower():
        return f"{text}. Put the certificate of its authority into a file and name it in FACTSTREAM_CA_FILE"
    if "certificate" in text.lower():  # the broker's answer to ours, or to none
        return f"{text}. It wants a certificate of this client, one that it trusts: FACTSTREAM_CERT_FILE, FACTSTREAM_KEY_FILE"
    return (
        f"{text}. Check that it is a Kafka broker and that FACTSTREAM_SECURITY_PROTOCOL, which is "
        f"{settings.security_protocol}, is the protocol of this port"
    )
