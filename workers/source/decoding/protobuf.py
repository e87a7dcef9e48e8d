"""Protobuf: bytes to rows by a descriptor that a registry has, read by the protobuf library.

No .proto file is compiled. Fields keep their names of the .proto file. A field that is not set is a null, where the format can tell; times are times.
"""

import base64
from collections.abc import Iterator, Mapping
from datetime import UTC
from typing import Any

from google.protobuf import (  # the pool finds what is imported here
    any_pb2,
    descriptor_pb2,
    descriptor_pool,
    duration_pb2,
    empty_pb2,
    field_mask_pb2,
    json_format,
    message_factory,
    struct_pb2,
    timestamp_pb2,
    wrappers_pb2,
)

from schemas.common import BadMessage
from workers.source.decoding.registry import Schema

_BUILT_IN = (
    any_pb2, descriptor_pb2, duration_pb2, empty_pb2, field_mask_pb2, struct_pb2, timestamp_pb2, wrappers_pb2
)  # fmt: skip
MAX_INDEXES = 16
"""Levels of messages within messages that the framing may name."""
MAX_VALUES = 500_000
"""Fields that a record may become: an empty message of two bytes has as many as its type."""


class ProtobufReader:
    """The messages of one file, with the files that it imports. Raises BadMessage if it cannot be used."""

    def __init__(self, schema: Schema, references: Mapping[str, Schema]) -> None:
        pool = descriptor_pool.DescriptorPool()
        try:
            for module in _BUILT_IN:
                pool.AddSerializedFile(module.DESCRIPTOR.serialized_pb)
            for name, used in references.items():
                if not name.startswith("google/protobuf/"):
                    pool.Add(_file(used, name))
            pool.Add(file := _file(schema, "schema.proto"))
            self._file = pool.FindFileByName(file.name)
        except Exception as error:  # base64, protobuf's decoder and its pool each have their own
            raise BadMessage(
                "invalid-schema", f"not a Protobuf descriptor: {type(error).__name__}: {error}"
            ) from None

    def read(self, data: bytes) -> Any:
        """The message in `data`, which begins with the indexes of its type in the file. Raises BadMessage."""
        indexes, data = _indexes(data)
        try:
            found = list(self._file.message_types_by_name.values())[indexes[0]]
            for index in indexes[1:]:
                found = found.nested_types[index]
            message = message_factory.GetMessageClass(found)()
            message.ParseFromString(data)
            return _row(message, iter(range(MAX_VALUES)))
        except Exception as error:
            raise BadMessage(
                "invalid-protobuf", f"not a message of its schema: {type(error).__name__}: {error}"
            ) from None


def _file(schema: Schema, name: str) -> Any:
    file = descriptor_pb2.FileDescriptorProto.FromString(base64.b64decode(schema.text, validate=True))
    file.name = name
    return file


def _indexes(data: bytes) -> tuple[list[int], bytes]:
    """The path of a message in its file: a count and that many indexes, as zigzag varints; a single 0 is the first message."""
    count, data = _varint(data)
    if not 0 <= count <= MAX_INDEXES:
        raise BadMessage("invalid-framing", f"{count} message indexes; 0 to {MAX_INDEXES} are read")
    indexes = []
    for _ in range(count):
        index, data = _varint(data)
        if index < 0:
            raise BadMessage("invalid-framing", f"the message index {index} is negative")
        indexes.append(index)
    return indexes or [0], data


def _varint(data: bytes) -> tuple[int, bytes]:
    number = 0
    for at, byte in enumerate(data[:5]):
        number |= (byte & 0x7F) << 7 * at
        if byte < 0x80:
            return (number >> 1) ^ -(number & 1), data[at + 1 :]
    raise BadMessage("invalid-framing", "the message indexes before a Protobuf message are cut")


def _row(message: Any, left: Iterator[int]) -> Any:
    """A message as a dictionary, a well-known type as what it stands for."""
    name = message.DESCRIPTOR.full_name
    if name == "google.protobuf.Timestamp":
        return message.ToDatetime(tzinfo=UTC)
    if message.DESCRIPTOR.file.name == "google/protobuf/wrappers.proto":
        return message.value
    if name.startswith("google.protobuf."):
        return json_format.MessageToDict(message)
    return {field.name: _field(message, field, left) for field in message.DESCRIPTOR.fields}


def _field(message: Any, field: Any, left: Iterator[int]) -> Any:
    if next(left, None) is None:
        raise ValueError(f"it becomes more than {MAX_VALUES} values")
    value = getattr(message, field.name)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        inner = field.message_type.fields_by_name["value"]
        return {str(key): _one(value[key], inner, left) for key in value}
    if field.is_repeated:
        return [_one(item, field, left) for item in value]
    if field.has_presence and not message.HasField(field.name):
        return None
    return _one(value, field, left)


def _one(value: Any, field: Any, left: Iterator[int]) -> Any:
    if field.message_type is not None:
        return _row(value, left)
    if field.enum_type is not None:
        known = field.enum_type.values_by_number.get(value)
        return known.name if known else value
    return value
