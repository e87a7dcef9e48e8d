"""A record's key and value as Python values: JSON, Connect's JSON, or described by a registry.

What cannot be decoded is a BadMessage that names the real cause. Whether a value is a row, a Debezium change or a CloudEvent is
no question here.
"""

from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from uuid import UUID

import orjson

from schemas.common import BadMessage
from workers.source.config import Registry
from workers.source.decoding import connect
from workers.source.decoding.framing import Framed, Headers, unframed

if TYPE_CHECKING:
    from workers.source.decoding.registry import RegistryClient

MAX_VALUE_BYTES = 1024 * 1024
"""Longest key or value that is decoded; Python objects take many times the memory."""
MAX_READERS = 100
"""Schemas that are kept ready to read with."""


class Decoder:
    """Decodes with a registry, or without one. Raises RegistryDown while the registry does not answer."""

    def __init__(self, where: Registry | None = None) -> None:
        """Raises ValueError if a registry is configured and its libraries are not installed."""
        self._client: RegistryClient | None = None
        if where:
            try:
                from workers.source.decoding import avro, protobuf, registry
            except ModuleNotFoundError as error:
                raise ValueError(
                    f"{error.name} is not installed, which a schema registry needs: pip install 'factstream[sources]'"
                ) from None
            self._client = registry.RegistryClient(where)
            self._kinds: dict[str, Callable[..., Any]] = {
                "AVRO": avro.AvroReader,
                "PROTOBUF": protobuf.ProtobufReader,
            }
        self._reader = lru_cache(MAX_READERS)(self._new_reader)

    def close(self) -> None:
        if self._client:
            self._client.close()

    def value(self, data: bytes, headers: Headers = ()) -> Any:
        """The value of a record. Raises BadMessage, RegistryDown."""
        return self._decoded(data, headers, "value")

    def key(self, data: bytes | None, headers: Headers = ()) -> Any:
        """The key of a record, None if it has none. Raises BadMessage, RegistryDown.

        Text that is no JSON object, array or string is the key as it stands: the keys 1.0 and 1.00 differ.
        """
        if data is None:
            return None
        if unframed(data, headers, "key") or data[:1] in (b"{", b"[", b'"'):
            with suppress(BadJson):
                return self._decoded(data, headers, "key")
        try:
            return data.decode()
        except UnicodeDecodeError:
            raise BadMessage("invalid-key", _neither(data)) from None

    def _decoded(self, data: bytes, headers: Headers, part: str) -> Any:
        if len(data) > MAX_VALUE_BYTES:
            raise BadMessage(
                "too-large", f"the {part} has {len(data)} bytes; at most {MAX_VALUE_BYTES} are read"
            )
        try:
            if framed := unframed(data, headers, part):
                return self._described(framed)
            value = _json(data)
            return connect.payload(value) if connect.is_connect(value) else value
        except RecursionError:
            raise BadMessage("invalid-value", f"the {part} is nested too deeply") from None

    def _described(self, framed: Framed) -> Any:
        """A value that is read by a schema of the registry."""
        if self._client is None:
            raise BadMessage("no-registry", f"Confluent framing, {framed}; configure a registry")
        try:
            return self._reader(framed.schema)(framed.body)
        except BadMessage as error:
            raise BadMessage(error.reason, f"Confluent framing, {framed}: {error}") from None

    def _new_reader(self, number: int | UUID) -> Callable[[bytes], Any]:
        from workers.source.decoding.registry import all_references

        assert self._client is not None
        schema = self._client.schema(number)
        if schema.kind == "JSON":
            return _json  # it is mapped and not validated: the templates say which fields they need
        if schema.kind not in self._kinds:
            raise BadMessage("invalid-schema", f"a schema of the unknown kind {schema.kind[:50]!r}")
        read: Callable[[bytes], Any]
        read = self._kinds[schema.kind](schema, all_references(self._client, schema)).read
        return read


class BadJson(BadMessage):
    """Bytes that are no JSON."""


def _json(data: bytes) -> Any:
    try:
        return orjson.loads(
            data.removeprefix(b"\xef\xbb\xbf")
        )  # the byte order mark that Windows' programs write
    except orjson.JSONDecodeError as error:
        begins_like_json = data.lstrip()[:1] in (b"{", b"[", b'"')
        raise BadJson("invalid-json", f"not JSON: {error}" if begins_like_json else _neither(data)) from None


def _neither(data: bytes) -> str:
    return f"neither JSON nor framed with a schema's id: it begins with the bytes {data[:8].hex(' ')}"
