"""Decoding without a registry: JSON, Connect's JSON with its types, keys, what the errors name."""

import base64
import json
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any

import pytest

from schemas.common import BadMessage
from tests.source.records import with_schema
from workers.source.decoding.decoder import MAX_VALUE_BYTES, Decoder
from workers.source.values import PLACEHOLDER

DECODER = Decoder()


def connect(name: str, kind: str, value: Any, **more: Any) -> Any:
    """A value of one of Connect's types, encoded and decoded."""
    envelope = with_schema(
        {"x": value}, [{"field": "x", "type": kind, "name": name, "optional": True, **more}]
    )
    return DECODER.value(json.dumps(envelope).encode())["x"]


def unscaled(number: int) -> str:
    return base64.b64encode(number.to_bytes(4, "big", signed=True)).decode()


@pytest.mark.parametrize(
    "name, kind, value, expected",
    [
        ("org.apache.kafka.connect.data.Date", "int32", 19000, date(2022, 1, 8)),
        ("org.apache.kafka.connect.data.Time", "int32", 3_600_000, time(1)),
        ("org.apache.kafka.connect.data.Timestamp", "int64", 1_700_000_000_000, datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)),
        ("io.debezium.time.Date", "int32", -1, date(1969, 12, 31)),
        ("io.debezium.time.Timestamp", "int64", 1_700_000_000_000, datetime(2023, 11, 14, 22, 13, 20)),
        ("io.debezium.time.MicroTimestamp", "int64", 1_700_000_000_000_001, datetime(2023, 11, 14, 22, 13, 20, 1)),
        ("io.debezium.time.NanoTimestamp", "int64", 1_700_000_000_000_001_999, datetime(2023, 11, 14, 22, 13, 20, 1)),
        ("io.debezium.time.MicroTime", "int64", 1, time(0, 0, 0, 1)),
        ("io.debezium.time.ZonedTimestamp", "string", "2026-03-01T12:00:00Z", "2026-03-01T12:00:00Z"),
        ("io.debezium.data.VariableScaleDecimal", "struct", {"scale": 3, "value": unscaled(-1500)}, Decimal("-1.500")),
        ("io.debezium.time.MicroTimestamp", "int64", 9223371331200000000, 9223371331200000000),
        ("io.debezium.time.Date", "int32", None, None),
    ],
)  # fmt: skip
def test_a_logical_type_of_connect_is_read(name: str, kind: str, value: Any, expected: Any) -> None:
    assert connect(name, kind, value) == expected


def test_a_decimal_of_connect_is_exact() -> None:
    scale = {"parameters": {"scale": "2"}}
    assert str(connect("org.apache.kafka.connect.data.Decimal", "bytes", unscaled(1210), **scale)) == "12.10"
    assert str(connect("org.apache.kafka.connect.data.Decimal", "bytes", 12.1, **scale)) == "12.1"
    placeholder = base64.b64encode(PLACEHOLDER.encode()).decode()
    assert connect("io.debezium.data.VariableScaleDecimal", "struct", None) is None
    assert connect("io.debezium.data.Bits", "bytes", placeholder) == placeholder


def test_structs_arrays_and_maps_of_connect_are_read_at_any_depth() -> None:
    day = {"type": "int32", "name": "io.debezium.time.Date"}
    fields = [
        {"field": "days", "type": "array", "items": day},
        {"field": "by_name", "type": "map", "keys": {"type": "string"}, "values": day},
        {"field": "pairs", "type": "map", "keys": {"type": "int32"}, "values": day},
    ]
    payload = {"days": [0, None], "by_name": {"a": 1}, "pairs": [[7, 2]]}
    assert DECODER.value(json.dumps(with_schema(payload, fields)).encode()) == {
        "days": [date(1970, 1, 1), None], "by_name": {"a": date(1970, 1, 2)}, "pairs": {"7": date(1970, 1, 3)},
    }  # fmt: skip
    assert DECODER.value(b'{"schema": null, "payload": {"a": 1}}') == {"a": 1}
    assert DECODER.value(b'{"schema": "public", "payload": 2}') == {"schema": "public", "payload": 2}  # a row


@pytest.mark.parametrize("payload", [[], "text", {"x": "not base64!"}, 7])
def test_a_payload_that_does_not_follow_its_schema_is_refused_or_left(payload: Any) -> None:
    fields = [{"field": "x", "type": "bytes", "name": "org.apache.kafka.connect.data.Decimal"}]
    with pytest.raises(BadMessage, match="does not follow its schema"):
        DECODER.value(json.dumps(with_schema(payload, fields)).encode())


def test_the_byte_order_mark_of_windows_is_passed_over() -> None:
    assert DECODER.value(b'\xef\xbb\xbf{"a": 1}') == {"a": 1}


@pytest.mark.parametrize(
    "value, headers, reason, words",
    [
        (b"\0\0\0\0\x07abc", (), "no-registry", "Confluent framing, schema id 7; configure a registry"),
        (b"\1" + bytes(15) + b"\x07abc", (), "no-registry", "schema GUID 00000000-0000-0000-0000-000000000007; configure"),
        (b"abc", [("__value_schema_id", b"\0\0\0\0\x07")], "no-registry", "schema id 7; configure a registry"),
        (b"abc", [("__value_schema_id", b"\0\7")], "invalid-framing", "2 bytes are no schema id"),
        (b"\0\0\0", (), "invalid-framing", "3 bytes are no schema id"),
        (b"Obj\x01", (), "invalid-json", "neither JSON nor framed with a schema's id: it begins with the bytes 4f 62 6a 01"),
        (b'{"a": NaN}', (), "invalid-json", "not JSON"),
        (b'{"a": "\xff"}', (), "invalid-json", "not JSON"),
        (b"[" * 100_000, (), "invalid-json", "not JSON"),
        (b'"' + b"a" * MAX_VALUE_BYTES + b'"', (), "too-large", "the value has 1048578 bytes"),
    ],
    ids=range(10),
)  # fmt: skip
def test_what_cannot_be_decoded_names_the_real_cause(
    value: bytes, headers: Any, reason: str, words: str
) -> None:
    with pytest.raises(BadMessage, match=words) as raised:
        DECODER.value(value, headers)
    assert raised.value.reason == reason


@pytest.mark.parametrize(
    "key, expected",
    [
        (None, None), (b"h-1", "h-1"), (b"1.10", "1.10"), (b"007", "007"), (b'"h-1"', "h-1"), (b'{"id": 7}', {"id": 7}),
        (b'{"schema": {"type": "string"}, "payload": "h-1"}', "h-1"), (b"{not json", "{not json"), (b"", ""),
    ],
)  # fmt: skip
def test_a_key_is_json_or_the_text_that_it_is(key: bytes | None, expected: Any) -> None:
    assert DECODER.key(key) == expected


def test_a_key_that_is_no_text_names_the_cause() -> None:
    for key, headers, words in [
        (b"\0\0\0\0\x07\x0e", [], "Confluent framing, schema id 7; configure a registry"),
        (b"7", [("__key_schema_id", b"\0\0\0\0\x09")], "schema id 9"),
        (b"\xff\xfe", [], "ff fe"),
    ]:
        with pytest.raises(BadMessage, match=words):
            DECODER.key(key, headers)


def test_json_that_is_nested_deeply_is_refused() -> None:
    schema: Any = {"type": "int32"}
    payload: Any = 1
    for _ in range(400):
        schema, payload = {"type": "array", "items": schema}, [payload]
    envelope = json.dumps({"schema": schema, "payload": payload}).encode()
    assert DECODER.value(envelope)  # within Python's limit
    with pytest.raises(BadMessage):
        DECODER.value(envelope.replace(b"[1]", b"[" * 700 + b"1" + b"]" * 700))


def test_a_schema_whose_fields_the_payload_lacks_many_times_is_refused() -> None:
    fields = [{"field": f"f{n}", "type": "int32"} for n in range(1000)]
    rows = {"field": "rows", "type": "array", "items": {"type": "struct", "fields": fields}}
    envelope = json.dumps(with_schema({"rows": [{}] * 1000}, [rows])).encode()  # 1,000,000 nulls
    with pytest.raises(BadMessage, match="more than 500000 values"):
        DECODER.value(envelope)


def test_a_decimal_of_too_many_digits_is_not_computed() -> None:
    text = base64.b64encode(b"\x7f" * 500_000).decode()  # it would take a minute
    value = {"scale": 3, "value": text}
    assert connect("io.debezium.data.VariableScaleDecimal", "struct", value) == value
    value = {"scale": 2**31 - 1, "value": unscaled(1)}
    assert connect("io.debezium.data.VariableScaleDecimal", "struct", value) == value
