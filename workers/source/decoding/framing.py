"""Confluent's framing: which schema of a registry a record's key or value was written with.

An id (four bytes) or a GUID (sixteen) stands before the bytes, or in a header of the record. JSON begins with neither of the
two magic bytes, so a framed value is known by its first byte.
"""

from collections.abc import Iterable
from typing import NamedTuple
from uuid import UUID

from schemas.common import BadMessage

Headers = Iterable[tuple[str, bytes | None]]

_HEADERS = {"key": "__key_schema_id", "value": "__value_schema_id"}
_ID, _GUID = 0, 1


class Framed(NamedTuple):
    """The schema that a key or value names, and the bytes that follow."""

    schema: int | UUID
    body: bytes

    def __str__(self) -> str:
        return f"schema {'id' if isinstance(self.schema, int) else 'GUID'} {self.schema}"


def unframed(data: bytes, headers: Headers, part: str) -> Framed | None:
    """The framing of a record's `key` or `value` (`part`); None if it has none. Raises BadMessage if it is cut."""
    for name, content in headers:
        if name == _HEADERS[part] and content is not None:
            schema, rest = _schema(content)
            return Framed(
                schema, rest + data
            )  # Protobuf's indexes of the message follow the schema, here too
    return Framed(*_schema(data)) if data[:1] in (b"\0", b"\1") else None


def _schema(data: bytes) -> tuple[int | UUID, bytes]:
    if data[:1] == bytes([_ID]) and len(data) >= 5:
        return int.from_bytes(data[1:5], "big"), data[5:]
    if data[:1] == bytes([_GUID]) and len(data) >= 17:
        return UUID(bytes=data[1:17]), data[17:]
    raise BadMessage(
        "invalid-framing", f"{len(data)} bytes are no schema id: a magic byte, then 4 or 16 bytes"
    )
