"""Decoding with a registry: records of Confluent's own serializers, hostile and absent schemas."""

import base64
import io
import struct
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import fastavro
import orjson
import pytest
from confluent_kafka.schema_registry import Schema as ConfluentSchema
from confluent_kafka.schema_registry import SchemaReference, SchemaRegistryClient, header_schema_id_serializer
from confluent_kafka.schema_registry.avro import AvroSerializer
from confluent_kafka.schema_registry.json_schema import JSONSerializer
from confluent_kafka.schema_registry.protobuf import ProtobufSerializer
from confluent_kafka.serialization import MessageField, SerializationContext
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, timestamp_pb2

from schemas.common import BadMessage
from tests.source.records import SOURCE
from tests.source.stub_registry import StubRegistry, running
from workers.source.config import Registry
from workers.source.decoding.decoder import Decoder
from workers.source.decoding.errors import RegistryDown

VALUE = {
    "type": "record", "name": "Value", "namespace": "shop.public.product",
    "fields": [
        {"name": "id", "type": "int"},
        {"name": "name", "type": "string"},
        {"name": "price", "type": ["null", {
            "type": "bytes", "scale": 2, "precision": 8, "connect.version": 1, "connect.parameters": {"scale": "2"},
            "connect.name": "org.apache.kafka.connect.data.Decimal", "logicalType": "decimal",
        }], "default": None},
        {"name": "changed", "type": ["null", {
            "type": "long", "connect.version": 1, "connect.name": "io.debezium.time.MicroTimestamp",
        }], "default": None},
    ],
    "connect.name": "shop.public.product.Value",
}  # fmt: skip
ENVELOPE = {
    "type": "record", "name": "Envelope", "namespace": "shop.public.product",
    "fields": [
        {"name": "before", "type": ["null", VALUE], "default": None},
        {"name": "after", "type": ["null", "Value"], "default": None},
        {"name": "source", "type": {"type": "record", "name": "Source", "namespace": "io.debezium.connector.postgresql",
            "fields": [{"name": "ts_ms", "type": "long"}, {"name": "table", "type": "string"}]}},
        {"name": "op", "type": "string"},
        {"name": "ts_ms", "type": ["null", "long"], "default": None},
    ],
    "connect.name": "shop.public.product.Envelope",
}  # fmt: skip
ROW = {"id": 7, "name": "Harlow desk lamp", "price": Decimal("12.10"), "changed": 1_700_000_000_000_001}
CHANGE = {
    "before": None,
    "after": ROW,
    "source": {"ts_ms": SOURCE["ts_ms"], "table": "product"},
    "op": "c",
    "ts_ms": 1,
}


@pytest.fixture
def registry() -> Iterator[StubRegistry]:
    with running() as made:
        yield made


@pytest.fixture
def decoder(registry: StubRegistry) -> Iterator[Decoder]:
    made = Decoder(Registry(url=registry.url))
    yield made
    made.close()


def confluent(registry: StubRegistry) -> SchemaRegistryClient:
    return SchemaRegistryClient({"url": registry.url})


def avro(registry: StubRegistry, headers: list[Any] | None = None) -> bytes:
    """A change as Connect's Avro converter writes it; with the schema's GUID in `headers` if they are given."""
    options = {} if headers is None else {"schema.id.serializer": header_schema_id_serializer}
    serializer = AvroSerializer(confluent(registry), orjson.dumps(ENVELOPE).decode(), conf=options)
    value = serializer(CHANGE, SerializationContext("shop.public.product", MessageField.VALUE, headers))
    assert isinstance(value, bytes)
    return value


def test_avro_of_debezium_is_read_with_its_decimals_and_times(
    registry: StubRegistry, decoder: Decoder
) -> None:
    change = decoder.value(avro(registry))
    assert change["op"] == "c" and change["before"] is None and change["source"]["ts_ms"] == SOURCE["ts_ms"]
    changed = datetime(2023, 11, 14, 22, 13, 20, 1)
    assert change["after"] == ROW | {"changed": changed} and str(change["after"]["price"]) == "12.10"


def test_the_schema_may_be_a_guid_before_the_value_or_in_the_headers(
    registry: StubRegistry, decoder: Decoder
) -> None:
    headers: list[Any] = []
    bare = avro(registry, headers)
    ((name, content),) = headers
    assert name == "__value_schema_id" and len(content) == 17
    expected = decoder.value(avro(registry))
    assert decoder.value(bare, headers) == expected
    assert decoder.value(content + bare) == expected
    assert decoder.value(bare, [("__value_schema_id", b"\0" + struct.pack(">I", 7))]) == expected


def test_a_key_is_read_with_its_own_schema(registry: StubRegistry, decoder: Decoder) -> None:
    schema = '{"type": "record", "name": "Key", "fields": [{"name": "id", "type": "int"}]}'
    context = SerializationContext("shop.public.product", MessageField.KEY)
    key = AvroSerializer(confluent(registry), schema)({"id": 7}, context)
    assert decoder.key(key) == {"id": 7}


def test_each_schema_is_fetched_once(registry: StubRegistry, decoder: Decoder) -> None:
    value = avro(registry)
    registry.asked.clear()
    for _ in range(3):
        decoder.value(value)
    assert dict(registry.asked) == {"/schemas/ids/7": 1}


def test_avro_may_refer_to_the_schemas_of_other_subjects(registry: StubRegistry, decoder: Decoder) -> None:
    client = confluent(registry)
    client.register_schema("value", ConfluentSchema(orjson.dumps(VALUE).decode(), "AVRO"))
    outer = '{"type": "record", "name": "Outer", "fields": [{"name": "row", "type": "shop.public.product.Value"}]}'
    reference = SchemaReference("shop.public.product.Value", "value", 1)
    client.register_schema("outer", ConfluentSchema(outer, "AVRO", [reference]))
    stream = io.BytesIO()
    fastavro.schemaless_writer(stream, fastavro.parse_schema(VALUE), ROW)
    assert decoder.value(b"\0\0\0\0\x08" + stream.getvalue())["row"]["name"] == "Harlow desk lamp"


def test_json_schema_is_the_json_after_the_framing(registry: StubRegistry, decoder: Decoder) -> None:
    schema = '{"title": "Row", "type": "object", "properties": {"id": {"type": "integer"}}}'
    context = SerializationContext("t", MessageField.VALUE)
    value = JSONSerializer(schema, confluent(registry))({"id": 7}, context)
    assert value is not None and value[:1] == b"\0"
    assert decoder.value(value) == {"id": 7}


def messages() -> dict[str, Any]:
    """The classes of a .proto file: Other, and Product, which has a message of its own within it."""
    file = descriptor_pb2.FileDescriptorProto(
        name="shop.proto", package="shop", syntax="proto3", dependency=["google/protobuf/timestamp.proto"]
    )
    file.message_type.add(name="Other")
    product = file.message_type.add(name="Product")
    colour = file.enum_type.add(name="Colour")
    colour.value.add(name="NONE", number=0)
    colour.value.add(name="RED", number=1)
    kinds = descriptor_pb2.FieldDescriptorProto
    entry = product.nested_type.add(name="StockEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, type=kinds.TYPE_STRING, label=kinds.LABEL_OPTIONAL)
    entry.field.add(name="value", number=2, type=kinds.TYPE_INT64, label=kinds.LABEL_OPTIONAL)
    part = product.nested_type.add(name="Part")
    part.field.add(name="name", number=1, type=kinds.TYPE_STRING, label=kinds.LABEL_OPTIONAL)
    for number, (name, kind, label, type_name) in enumerate(
        [
            ("id", kinds.TYPE_INT64, kinds.LABEL_OPTIONAL, ""),
            ("name", kinds.TYPE_STRING, kinds.LABEL_OPTIONAL, ""),
            ("colour", kinds.TYPE_ENUM, kinds.LABEL_OPTIONAL, ".shop.Colour"),
            ("changed", kinds.TYPE_MESSAGE, kinds.LABEL_OPTIONAL, ".google.protobuf.Timestamp"),
            ("sold", kinds.TYPE_MESSAGE, kinds.LABEL_OPTIONAL, ".google.protobuf.Timestamp"),
            ("parts", kinds.TYPE_MESSAGE, kinds.LABEL_REPEATED, ".shop.Product.Part"),
            ("stock", kinds.TYPE_MESSAGE, kinds.LABEL_REPEATED, ".shop.Product.StockEntry"),
        ],
        1,
    ):
        product.field.add(name=name, number=number, type=kind, label=label, type_name=type_name or None)
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(timestamp_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    classes: dict[str, Any] = message_factory.GetMessageClassesForFiles(["shop.proto"], pool)
    return classes


@pytest.mark.parametrize("in_headers", [False, True])
def test_protobuf_is_read_by_its_descriptor(
    registry: StubRegistry, decoder: Decoder, in_headers: bool
) -> None:
    product = messages()["shop.Product"]
    message = product(id=2**60, name="Lamp", colour=1, parts=[{"name": "shade"}], stock={"Brask": 3})
    message.changed.FromDatetime(datetime(2026, 3, 1, 12))
    headers: list[Any] = []
    options: dict[str, Any] = {"schema.id.serializer": header_schema_id_serializer} if in_headers else {}
    serializer = ProtobufSerializer(product, confluent(registry), {"use.deprecated.format": False, **options})
    value = serializer(message, SerializationContext("t", MessageField.VALUE, headers))
    assert value is not None
    assert decoder.value(value, headers) == {
        "id": 2**60, "name": "Lamp", "colour": "RED", "changed": datetime(2026, 3, 1, 12, tzinfo=UTC), "sold": None,
        "parts": [{"name": "shade"}], "stock": {"Brask": 3},
    }  # fmt: skip


# --- what a registry and a hostile producer may do ---


def framed(registry: StubRegistry, schema: Any, body: bytes, kind: str = "AVRO") -> bytes:
    text = schema if isinstance(schema, str) else orjson.dumps(schema).decode()
    return b"\0" + struct.pack(">I", registry.add("s", {"schema": text, "schemaType": kind})["id"]) + body


LINKED = {"type": "record", "name": "Node", "fields": [{"name": "next", "type": ["null", "Node"]}]}
DECIMAL = {"type": "bytes", "logicalType": "decimal", "precision": 8, "scale": 2}
EMPTY = {"type": "record", "name": "Empty", "fields": []}


@pytest.mark.parametrize(
    "schema, body, words",
    [
        (LINKED, b"\x02" * 1_000_000, "refers to itself"),  # fastavro 1.13 ends the process here
        ({"type": "array", "items": "null"}, b"\x80\xad\xe2\x04\x00", "items take no bytes"),
        ({"type": "array", "items": EMPTY}, b"\x80\xad\xe2\x04\x00", "items take no bytes"),
        ("long", b"\x02\x02", "not an Avro schema"),
        ('"long"', b"\x02\x02", "1 bytes after the value"),
        ('"string"', b"\xfe\xff\xff\xff\x0f", "not a value of its schema"),
        ('"string"', b"\x02\xff", "not a value of its schema"),
        ('"long"', b"", "not a value of its schema"),
        (
            DECIMAL,
            b"\x80\x89z" + b"\x7f" * 1_000_000,
            "a decimal of 1000000 bytes",
        ),  # minutes, without a limit
        ('"no.such.Type"', b"", "not an Avro schema"),
    ],
    ids=range(10),
)
def test_hostile_avro_is_refused(
    registry: StubRegistry, decoder: Decoder, schema: Any, body: bytes, words: str
) -> None:
    with pytest.raises(BadMessage, match=f"Confluent framing, schema id 7: .*{words}"):
        decoder.value(framed(registry, schema, body))


@pytest.mark.parametrize("body", [b"", b"\x00\xff", b"\x7f", b"\x02\x7f\x00", b"\x01", b"\xff" * 9])
def test_hostile_protobuf_is_refused(registry: StubRegistry, decoder: Decoder, body: bytes) -> None:
    file = descriptor_pb2.FileDescriptorProto(name="a.proto")
    file.message_type.add(name="A")
    text = base64.b64encode(file.SerializeToString()).decode()
    with pytest.raises(BadMessage, match="schema id 7"):
        decoder.value(framed(registry, text, body, "PROTOBUF"))


def test_a_schema_of_no_known_kind_or_with_no_text_is_refused(
    registry: StubRegistry, decoder: Decoder
) -> None:
    with pytest.raises(BadMessage, match="unknown kind 'THRIFT'"):
        decoder.value(framed(registry, "x", b"", "THRIFT"))
    with pytest.raises(BadMessage, match="not a Protobuf descriptor"):
        decoder.value(framed(registry, "syntax = 'proto3';", b"\0", "PROTOBUF"))


def test_an_unknown_id_is_refused_for_good(registry: StubRegistry, decoder: Decoder) -> None:
    with pytest.raises(BadMessage, match=f"schema id 9: it is not in the registry {registry.url}") as raised:
        decoder.value(b"\0\0\0\0\x09abc")
    assert raised.value.reason == "unknown-schema"
    registry.status = 404  # of a registry that knows no GUIDs
    with pytest.raises(BadMessage, match="is not in the registry"):
        decoder.value(b"\1" + bytes(16) + b"abc")


@pytest.mark.parametrize("status", [500, 503, 429, 401, 403, 302, 404, 422])
def test_a_registry_that_fails_is_no_fault_of_the_record(
    registry: StubRegistry, decoder: Decoder, status: int
) -> None:
    value = avro(registry)
    registry.status = status
    with pytest.raises(RegistryDown, match=str(status)):
        decoder.value(value)
    registry.status = 200
    assert decoder.value(value)["op"] == "c"  # the failure was not kept


def test_a_registry_that_is_away_is_told_so() -> None:
    decoder = Decoder(Registry(url="http://127.0.0.1:1", timeout_s=1))
    with pytest.raises(RegistryDown, match=r"http://127\.0\.0\.1:1 does not answer: ConnectError"):
        decoder.value(b"\0\0\0\0\x07abc")


def test_the_login_comes_from_the_environment(
    registry: StubRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    value = avro(registry)
    registry.login = "Basic " + base64.b64encode(b"me:secret").decode()
    with pytest.raises(RegistryDown, match="FACTSTREAM_REGISTRY_PASSWORD"):
        Decoder(Registry(url=registry.url)).value(value)
    monkeypatch.setenv("FACTSTREAM_REGISTRY_USERNAME", "me")
    monkeypatch.setenv("FACTSTREAM_REGISTRY_PASSWORD", "secret")
    assert Decoder(Registry(url=registry.url)).value(value)["op"] == "c"
