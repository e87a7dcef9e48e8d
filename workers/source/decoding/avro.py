"""Avro: bytes to rows by a registry's schema, read by fastavro.

Refused is what a hostile record could end the process with, or keep it busy: a schema that refers to itself (fastavro's recursion
has no limit), items and fields that take no bytes, decimals of a million digits, and bytes after the value. Times are what Connect says:
its names (`connect.name`) become Avro's logical types, so that a column is a date and not a number of days.
"""

import io
from collections.abc import Callable, Mapping
from typing import Any

import fastavro
import orjson
from fastavro.read import LOGICAL_READERS

from schemas.common import BadMessage
from workers.source.decoding.registry import Schema

_LOGICAL = {
    "io.debezium.time.Date": "date",
    "io.debezium.time.Time": "time-millis",
    "io.debezium.time.MicroTime": "time-micros",
    "io.debezium.time.Timestamp": "local-timestamp-millis",
    "io.debezium.time.MicroTimestamp": "local-timestamp-micros",
}
"""Logical types with the same bytes, by Connect's name of a type. A Debezium timestamp has no time zone."""

MAX_DECIMAL_BYTES = 500
"""Longest decimal, about 1,200 digits: Python's time for more grows with their square."""


def _bounded(read: Callable[..., Any]) -> Callable[..., Any]:
    def bounded(data: Any, writer_schema: Any = None, reader_schema: Any = None) -> Any:
        if len(data) > MAX_DECIMAL_BYTES:
            raise ValueError(f"a decimal of {len(data)} bytes; at most {MAX_DECIMAL_BYTES} are read")
        return read(data, writer_schema, reader_schema)

    return bounded


for _name in ("bytes-decimal", "fixed-decimal"):
    LOGICAL_READERS[_name] = _bounded(LOGICAL_READERS[_name])


class AvroReader:
    """The values of one schema, with the schemas that it refers to. Raises BadMessage if it cannot be used."""

    def __init__(self, schema: Schema, references: Mapping[str, Schema]) -> None:
        named: dict[str, Any] = {}
        least: dict[str, int | None] = {}
        try:
            for one in (*references.values(), schema):
                self._schema = fastavro.parse_schema(_with_times(orjson.loads(one.text)), named)
                _least_bytes(self._schema, least)
        except BadMessage:
            raise
        except Exception as error:  # fastavro and orjson have errors of their own for each mistake
            raise BadMessage(
                "invalid-schema", f"not an Avro schema: {type(error).__name__}: {error}"
            ) from None

    def read(self, data: bytes) -> Any:
        """The value in `data`. Raises BadMessage."""
        stream = io.BytesIO(data)
        try:
            value = fastavro.schemaless_reader(stream, self._schema, None)
        except Exception as error:
            raise BadMessage(
                "invalid-avro", f"not a value of its schema: {type(error).__name__}: {error}"
            ) from None
        if rest := len(data) - stream.tell():
            raise BadMessage("invalid-avro", f"there are {rest} bytes after the value")
        return value


def _with_times(schema: Any) -> Any:
    """A schema with the logical types that its `connect.name`s stand for."""
    if isinstance(schema, list):
        return [_with_times(branch) for branch in schema]
    if not isinstance(schema, dict):
        return schema
    made = {name: _with_times(part) if name in _NESTED else part for name, part in schema.items()}
    logical = _LOGICAL.get(str(schema.get("connect.name")))
    return made | {"logicalType": logical} if logical else made


_NESTED = ("type", "fields", "items", "values")


def _least_bytes(schema: Any, named: dict[str, int | None]) -> int:
    """The fewest bytes that a value takes; `named` has them by type, None while a type is looked at.

    Raises BadMessage for what could grow without bytes, or without an end.
    """
    if isinstance(schema, list):
        return 1 + min((_least_bytes(branch, named) for branch in schema), default=0)
    if isinstance(schema, str):
        if schema in _PRIMITIVE:
            return _PRIMITIVE[schema]
        if (known := named.get(schema)) is None:
            raise BadMessage("invalid-schema", f"an Avro schema that refers to itself, by {schema[:100]!r}")
        return known
    kind, size = schema["type"], 1
    if kind in ("record", "error"):
        named[schema["name"]] = None
        sizes = [_least_bytes(field["type"], named) for field in schema["fields"]]
        if sizes.count(0) > 1:  # two in each, forty times within each other, are 2**40 values in no bytes
            raise BadMessage("invalid-schema", "an Avro record with several fields that take no bytes")
        size = sum(sizes)
    elif kind == "array":
        if not _least_bytes(schema["items"], named):
            raise BadMessage(
                "invalid-schema", "an Avro array whose items take no bytes may have any number of them"
            )
    elif kind == "map":
        _least_bytes(schema["values"], named)
    elif kind == "fixed":
        size = int(schema["size"])
    elif kind != "enum":
        size = _least_bytes(kind, named)
    if "name" in schema:
        named[schema["name"]] = size
    return size


_PRIMITIVE = {"null": 0, "boolean": 1, "int": 1, "long": 1, "float": 4, "double": 8, "bytes": 1, "string": 1}
