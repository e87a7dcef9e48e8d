"""The return address of a request: its id, the topic of its answer, and the headers that come back.

Clients of Kafka name these in headers: Spring's ReplyingKafkaTemplate in kafka_correlationId, kafka_replyTopic and
kafka_replyPartition, FastStream in correlation_id and reply_to. Whether a topic may be replied to is not decided here.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from schemas.common import BadMessage
from schemas.request import request_id_of
from schemas.topics import GENERATION_REQUESTS

Headers = Iterable[tuple[str, bytes | None]]

SPRING_CORRELATION, SPRING_TOPIC, SPRING_PARTITION = (
    "kafka_correlationId", "kafka_replyTopic", "kafka_replyPartition"
)  # fmt: skip
CORRELATION, REPLY_TO = "correlation_id", "reply_to"
ERROR = "factstream.error"
"""The header of a response that is an error: its reason."""
UUID_BYTES = 16
MAX_HEADERS = 32
MAX_HEADER_BYTES = 4096
"""Names and values of the headers that come back; those that do not fit are left out."""
_ABOUT_THE_REQUEST = re.compile(r"__|ce_|kafka_|factstream\.|(content-type|reply_to|traceparent|tracestate)$")
"""Headers that say what the request's bytes are (a class, a schema, an event), and would be false of the answer's."""


@dataclass(frozen=True)
class ReturnAddress:
    """The id and headers that a response repeats, and its topic and partition where the requester chose them."""

    request_id: str
    headers: tuple[tuple[str, bytes], ...] = ()
    topic: str | None = None
    """A full name; None for generation-responses."""
    partition: int | None = None


def return_address(
    key: bytes | None, headers: Headers, partition: int, offset: int, timestamp: int
) -> ReturnAddress:
    """The address of a record on `generation-requests`, without `reply_place`: whatever it holds, it can be answered."""
    given = dict(headers)
    request_id = request_id_of(key) or _correlated(given)
    if request_id is None:  # with the time: a wiped broker counts from 0 again
        request_id = f"{GENERATION_REQUESTS}:{partition}:{offset}:{timestamp}"
    return ReturnAddress(request_id, _echoed(given))


def reply_place(headers: Headers) -> tuple[str | None, int | None]:
    """The topic and the partition that a request asks its answer to. Raises BadMessage."""
    given = dict(headers)
    name = given.get(SPRING_TOPIC) or given.get(REPLY_TO)
    number = given.get(SPRING_PARTITION)
    if number is not None and len(number) != 4:
        raise BadMessage(
            "invalid-header", f"{SPRING_PARTITION} has {len(number)} bytes; it must be a 4-byte integer"
        )
    place = None if number is None else int.from_bytes(number, "big", signed=True)
    return (name.decode("utf-8", "replace") if name else None), place


def takes_one_reply(headers: Headers) -> bool:
    """Whether the requester takes the first record with its correlation for the whole answer."""
    return any(name in (SPRING_CORRELATION, REPLY_TO) for name, _ in headers)


def _correlated(given: dict[str, bytes | None]) -> str | None:
    """A request_id from a correlation id: a text as it is, and bytes, such as the 16 of Spring's UUIDs, in hex."""
    spring = given.get(SPRING_CORRELATION)
    correlation = spring or given.get(CORRELATION) or b""
    if not (spring and len(spring) == UUID_BYTES) and (text := request_id_of(correlation)):
        return text
    return request_id_of(correlation.hex().encode())


def _echoed(given: dict[str, bytes | None]) -> tuple[tuple[str, bytes], ...]:
    """The requester's own headers, those of its correlation first, as many as fit."""
    first = [name for name in (SPRING_CORRELATION, CORRELATION) if name in given]
    others = [name for name in given if name not in first and not _ABOUT_THE_REQUEST.match(name)]
    found: list[tuple[str, bytes]] = []
    room = MAX_HEADER_BYTES
    for name in first + others:
        value = given[name] or b""
        size = len(name.encode()) + len(value)
        if size <= room and len(found) < MAX_HEADERS:
            found.append((name, value))
            room -= size
    return tuple(found)
