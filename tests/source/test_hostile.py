"""Hostile records: whatever is on a source's topic becomes messages or a dead letter."""

import base64
import json
from typing import Any

import pytest
from google.protobuf import descriptor_pb2
from hypothesis import given
from hypothesis import strategies as st

from schemas.common import BadMessage
from tests.source.records import SOURCE, TOPIC, Record
from workers.source.config import parse
from workers.source.decoding.avro import AvroReader
from workers.source.decoding.protobuf import ProtobufReader
from workers.source.decoding.registry import Schema
from workers.source.record import Mapper
from workers.source.values import PLACEHOLDER

STATEMENTS = """
    statements:
      a: {text: "{{ row.a }} {{ row.b.c }}", metadata: {all: "{{ row | tojson }}"}, when: row.a != 1}
      b: {text: "{{ row.list | join(', ') }}", key: "{{ row.a }}", namespace: "{{ row.b }}", valid_until: "{{ row.t }}"}
      c: {text: "{{ row.a * 3 }}{% for x in row.list %}{{ x.y or x }}{% endfor %}", category: "{{ row.b }}", where: row.t}
      d: "{{ row.a | int }} {{ '%.2f' | format(row.t) }} {{ row.list | length }} {{ row.b.items() | list }}"
"""
MAPPERS = {
    format: Mapper(parse(f"sources:\n  - topic: {TOPIC}\n    format: {format}{STATEMENTS}"))
    for format in ("rows", "debezium", "cloudevents")
}
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just(PLACEHOLDER)
NAMES = st.sampled_from(
    ("a", "b", "c", "t", "list", "y", "items", "__class__", "__deleted", "op", "after", "schema", "payload")
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=5),
    max_leaves=20,
)
ENVELOPES = st.fixed_dictionaries(
    {
        "op": st.sampled_from(("c", "u", "d", "r", "t", "m", 1, None)),
        "before": VALUES,
        "after": VALUES,
        "source": VALUES | st.just(SOURCE),
    }
)
EVENTS = st.fixed_dictionaries(
    {"specversion": st.just("1.0") | LEAVES, "id": st.just("1") | LEAVES, "source": st.just("s") | LEAVES, "type": st.just("t") | LEAVES},
    optional={"data": VALUES, "data_base64": VALUES, "time": LEAVES, "subject": VALUES},
)  # fmt: skip
TYPES = st.sampled_from(("struct", "array", "map", "bytes", "int32", "string", 7, None))
LOGICAL = st.sampled_from((
    None, "org.apache.kafka.connect.data.Decimal", "org.apache.kafka.connect.data.Timestamp", "io.debezium.time.Date",
    "io.debezium.time.MicroTime", "io.debezium.data.VariableScaleDecimal",
))  # fmt: skip
SCHEMAS: st.SearchStrategy[Any] = st.recursive(
    st.fixed_dictionaries({"type": TYPES, "name": LOGICAL, "field": NAMES}),
    lambda inner: st.fixed_dictionaries(
        {"type": TYPES, "fields": st.lists(inner, max_size=4), "items": inner, "field": NAMES}
    ),
    max_leaves=6,
)
CONNECT = st.fixed_dictionaries({"schema": SCHEMAS, "payload": VALUES})
JSON = st.one_of(
    VALUES, ENVELOPES, EVENTS, CONNECT, ENVELOPES.map(lambda value: {"schema": None, "payload": value})
)
BYTES = JSON.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=40) | st.none()
HEADERS = st.lists(
    st.tuples(
        st.sampled_from(("__value_schema_id", "__key_schema_id", "content-type", "ce_id", "ce_specversion", "ce_time", "x")),
        st.sampled_from((None, b"", b"\0\0\0\0\7", b"1.0", b"application/cloudevents+json", b"\xff")),
    ),
    max_size=4,
)  # fmt: skip


@pytest.mark.parametrize("format", MAPPERS)
@given(
    value=BYTES, key=BYTES, headers=HEADERS, timestamp=st.integers(-(2**63), 2**63 - 1), echo=st.booleans()
)
def test_any_record_becomes_messages_or_a_dead_letter(
    format: str, value: bytes | None, key: bytes | None, headers: Any, timestamp: int, echo: bool
) -> None:
    result = MAPPERS[format].map(Record(value, key, timestamp=timestamp, headers=headers), echo)
    for message in (message for one in result.mapped for message in one.messages):
        assert not any(
            PLACEHOLDER in str(message.body.get(name)) for name in ("text", "category", "metadata")
        )
        assert json.loads(json.dumps(message.body)) == message.body  # JSON as it is
    if result.error:
        assert result.error.reason and str(result.error)


def test_an_avro_schema_that_makes_many_values_of_no_bytes_is_refused() -> None:
    schema: Any = {"type": "record", "name": "R", "fields": []}
    for number in range(18):  # with 40 it would take days
        fields = [{"name": "a", "type": schema}, {"name": "b", "type": schema["name"]}]
        schema = {"type": "record", "name": f"R{number}", "fields": fields}
    with pytest.raises(BadMessage, match="several fields that take no bytes"):
        AvroReader(Schema("AVRO", json.dumps(schema), ()), {}).read(b"")


def protobuf(file: descriptor_pb2.FileDescriptorProto) -> ProtobufReader:
    return ProtobufReader(Schema("PROTOBUF", base64.b64encode(file.SerializeToString()).decode(), ()), {})


def test_a_protobuf_message_of_many_empty_ones_is_refused() -> None:
    file = descriptor_pb2.FileDescriptorProto(name="a.proto", syntax="proto3")
    rows, row = file.message_type.add(name="Rows"), file.message_type.add(name="Row")
    rows.field.add(name="rows", number=1, type=11, type_name=".Row", label=3)
    for number in range(100):
        row.field.add(name=f"f{number}", number=number + 1, type=9, label=1)
    assert len(protobuf(file).read(b"\0" + b"\x0a\0" * 10)["rows"]) == 10
    with pytest.raises(BadMessage, match="more than 500000 values"):
        protobuf(file).read(b"\0" + b"\x0a\0" * 6000)


@pytest.mark.parametrize("name", ["any", "descriptor", "empty", "field_mask", "struct", "timestamp"])
def test_a_protobuf_file_may_import_the_well_known_types(name: str) -> None:
    file = descriptor_pb2.FileDescriptorProto(
        name="a.proto", syntax="proto3", dependency=[f"google/protobuf/{name}.proto"]
    )
    file.message_type.add(name="A").field.add(name="x", number=1, type=5, label=1)
    assert protobuf(file).read(b"\0\x08\x07") == {"x": 7}
