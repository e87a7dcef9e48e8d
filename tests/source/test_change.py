"""Records as changes of rows: Debezium's envelopes, flattened rows, CloudEvents by their library."""

import json
from datetime import UTC, datetime
from typing import Any
from unittest.mock import ANY

import pytest
from cloudevents.core.bindings.kafka import to_binary_event, to_structured_event
from cloudevents.core.v1.event import CloudEvent

from tests.source.records import SOURCE, TOPIC, Record, envelope, record, with_schema
from workers.source.config import parse
from workers.source.record import Mapper, Result, record_id
from workers.source.values import PLACEHOLDER

STATEMENTS = """
    statements:
      material: {text: "The {{ row.name }} is made of {{ row.material }}.", when: row.active}
"""
COMMITTED = datetime.fromtimestamp(SOURCE["ts_ms"] / 1000, UTC).isoformat()  # type: ignore[operator]
WRITTEN = datetime.fromtimestamp(1_700_000_000.5, UTC).isoformat()
LAMP = {"id": 7, "name": "Lamp", "material": "walnut", "active": True}
KEY = {"id": 7}


def mapper(format: str, statements: str = STATEMENTS) -> Mapper:
    return Mapper(parse(f"sources:\n  - topic: {TOPIC}\n    format: {format}{statements}"))


def debezium(*given: Record, echo: bool = False) -> list[Any]:
    """The bodies that the records become, and the reasons of their dead letters."""
    found: list[Any] = []
    for one in given:
        result = mapper("debezium").map(one, echo)
        found += bodies(result) + ([result.error.reason] if result.error else [])
    return found


def bodies(result: Result) -> list[dict[str, Any]]:
    return [message.body for mapped in result.mapped for message in mapped.messages]


FACT = {
    "text": "The Lamp is made of walnut.", "key": f"{TOPIC}:7:material", "namespace": "default", "source": TOPIC,
    "fact_id": ANY, "observed_at": COMMITTED,
}  # fmt: skip
FORGET = {
    "forget_key": f"{TOPIC}:7:material", "namespace": "default", "fact_id": FACT["fact_id"], "observed_at": COMMITTED,
}  # fmt: skip


@pytest.mark.parametrize("op", ["c", "r", "u"])
def test_an_inserted_a_read_and_an_updated_row_state_their_facts(op: str) -> None:
    assert debezium(record(envelope(op, None, LAMP), KEY)) == [FACT]


def test_a_change_with_schema_and_payload_is_read_like_one_without() -> None:
    value = with_schema(
        envelope("c", None, LAMP),
        [
            {"field": "before", "type": "struct", "optional": True, "fields": []},
            {"field": "after", "type": "struct", "fields": [
                {"field": name, "type": kind} for name, kind in
                [("id", "int32"), ("name", "string"), ("material", "string"), ("active", "boolean")]
            ]},
            {"field": "source", "type": "struct", "fields": [{"field": "ts_ms", "type": "int64"}]},
            {"field": "op", "type": "string"},
        ],
    )  # fmt: skip
    key = with_schema(KEY, [{"field": "id", "type": "int32"}])
    assert debezium(record(value, key)) == [FACT]


def test_a_deleted_row_forgets_its_statements_and_its_tombstone_says_nothing_more() -> None:
    assert debezium(record(envelope("d", LAMP, None), KEY)) == [FORGET]
    only_key = {
        "id": 7,
        "name": None,
        "material": None,
        "active": None,
    }  # PostgreSQL's default replica identity
    assert debezium(record(envelope("d", only_key, None), KEY)) == [FORGET]
    for tombstone in (
        record(None, KEY),
        record({"schema": None, "payload": None}, KEY),
        Record(b"null", b'{"id": 7}'),
    ):
        assert debezium(tombstone, echo=True) == []
    assert debezium(record(None, KEY)) == [FORGET | {"observed_at": WRITTEN}]  # compaction took the deletion


def test_only_a_deletion_is_followed_by_an_echo() -> None:
    given = mapper("debezium")
    assert given.map(record(envelope("d", LAMP, None), KEY)).deletes
    assert not given.map(record(envelope("u", LAMP, LAMP), KEY)).deletes
    assert not given.map(record(None, KEY)).deletes
    assert given.map(record(envelope("u", LAMP, LAMP | {"material": "oak"}), KEY), echo=True).mapped


@pytest.mark.parametrize(
    "value, reason",
    [
        (envelope("t"), "truncated"),
        (envelope("x", None, LAMP), "unknown-operation"),
        (envelope("u", LAMP, None), "not-a-row"),
        (envelope("c", None, "text"), "not-a-row"),
        (envelope("c", None, [1]), "not-a-row"),
        (LAMP, "not-an-envelope"),
        ({**LAMP, "__deleted": "false"}, "not-an-envelope"),
        ([1], "not-an-envelope"),
        (7, "not-an-envelope"),
        (envelope("c", None, {"id": 7, "name": "Lamp"}), "undefined-field"),
    ],
)
def test_what_is_no_change_of_a_row_is_a_dead_letter(value: Any, reason: str) -> None:
    assert debezium(record(value, KEY)) == [reason]


def test_messages_of_the_log_are_about_no_row() -> None:
    assert debezium(record({"op": "m", "ts_ms": 1, "source": SOURCE, "message": {"prefix": "p"}}, KEY)) == []


def test_documents_of_mongodb_come_as_text() -> None:
    value = envelope("c", None, json.dumps(LAMP))
    assert debezium(record(value, {"id": '{"$oid": "65"}'}))[0]["text"] == FACT["text"]


def test_a_change_without_a_time_of_its_own_has_that_of_its_record() -> None:
    for ts_ms in (0, None, "now", 10**30, True):
        change = envelope("c", None, LAMP)
        change["source"] = {"ts_ms": ts_ms}
        assert debezium(record(change, KEY)) == [FACT | {"observed_at": WRITTEN}]
    assert "observed_at" not in debezium(record(change, KEY, timestamp=-1))[0]


def test_flattened_rows_say_themselves_that_they_are_deleted() -> None:
    rows = mapper("rows")
    fact = FACT | {"observed_at": WRITTEN}
    assert bodies(rows.map(record(LAMP | {"__deleted": "false"}, KEY))) == [fact]
    for value in (LAMP | {"__deleted": "true"}, LAMP | {"__deleted": True}, None):
        assert bodies(rows.map(record(value, KEY), echo=True)) == [FORGET | {"observed_at": WRITTEN}]


def test_a_row_that_is_no_longer_stated_is_forgotten_and_a_null_states_nothing() -> None:
    rows = mapper("rows")
    for row in (LAMP | {"active": False}, LAMP | {"material": None}):
        assert bodies(rows.map(record(row, KEY))) == [FORGET | {"observed_at": WRITTEN}]


def test_the_wrong_format_is_named() -> None:
    for format, value, words in [
        ("rows", envelope("c", None, LAMP), "set `format: debezium`"),
        ("debezium", LAMP | {"__deleted": "false"}, "set `format: rows`"),
        ("debezium", LAMP, "`op` is missing"),
        ("cloudevents", LAMP, "no CloudEvent"),
    ]:
        error = mapper(format).map(record(value, KEY)).error
        assert error and words in str(error)


# --- CloudEvents ---

ATTRIBUTES = {
    "id": "e-1", "source": "/shop", "type": "product.changed", "specversion": "1.0", "subject": "7",
    "time": datetime(2026, 3, 1, 12, tzinfo=UTC), "datacontenttype": "application/json",
}  # fmt: skip
EVENTS = """
    statements:
      material:
        text: "The {{ row.name }} is made of {{ row.material }}."
        when: event.type == 'product.changed'
        key: "{{ event.source }}/{{ event.subject }}"
"""


def event(data: Any, structured: bool, **attributes: Any) -> Record:
    """An event as the CloudEvents library writes it for Kafka."""
    made = CloudEvent(attributes=ATTRIBUTES | attributes, data=data)
    message = to_structured_event(made) if structured else to_binary_event(made)
    assert isinstance(message.value, bytes) and message.key is None
    return Record(message.value, headers=list(message.headers.items()))


@pytest.mark.parametrize("structured", [True, False])
def test_events_are_mapped_at_their_own_time(structured: bool) -> None:
    events = mapper("cloudevents", EVENTS)
    (fact,) = bodies(events.map(event(LAMP, structured)))
    assert fact["text"] == "The Lamp is made of walnut." and fact["key"] == "/shop/7"
    assert fact["observed_at"] == "2026-03-01T12:00:00+00:00"
    (forget,) = bodies(events.map(event(LAMP, structured, type="product.removed")))
    assert (forget["forget_key"], forget["observed_at"]) == ("/shop/7", "2026-03-01T12:00:00+00:00")


def test_the_subject_is_the_key_of_an_event_without_one() -> None:
    (fact,) = bodies(mapper("cloudevents").map(event(LAMP, structured=False)))
    assert fact["key"] == f"{TOPIC}:7:material"


def test_a_binary_event_without_data_says_that_its_subject_is_gone() -> None:
    gone = event(LAMP, structured=False)._replace(value=None)
    (forget,) = bodies(mapper("cloudevents").map(gone))
    assert forget["forget_key"] == f"{TOPIC}:7:material" and forget["observed_at"].startswith("2026-03-01")
    structured = event(None, structured=True)
    error = mapper("cloudevents").map(structured).error  # it is not: it is an event about nothing
    assert error and error.reason == "undefined-field"


def test_data_in_base64_is_decoded_like_a_value() -> None:
    value = b'{"specversion": "1.0", "id": "1", "source": "s", "type": "product.changed", "subject": "7", "data_base64": "%s"}'
    events = mapper("cloudevents", EVENTS)
    assert (
        bodies(events.map(Record(value % b"eyJuYW1lIjogIkEiLCAibWF0ZXJpYWwiOiAib2FrIn0=")))[0]["text"]
        == "The A is made of oak."
    )
    error = events.map(Record(value % b"AAAAAAdhYmM=")).error
    assert error and str(error) == "Confluent framing, schema id 7; configure a registry"


@pytest.mark.parametrize(
    "value, headers, words",
    [
        (b'{"specversion": "1.0", "id": "1", "source": "s"}', [], "without type"),
        (b'{"specversion": "0.3", "id": "1", "source": "s", "type": "t"}', [], "specversion is '0.3'"),
        (b'{"specversion": "1.0", "id": "1", "source": "s", "type": "t", "time": "now"}', [], "not a time"),
        (b'{"specversion": "1.0", "id": "1", "source": "s", "type": "t", "data_base64": "!"}', [], "base64"),
        (b"{}", [("ce_specversion", b"1.0"), ("ce_id", None)], "without id, source, type"),
        (b"[]", [("content-type", b"application/cloudevents+json")], "no CloudEvent"),
        (b"\x01", [("content-type", b"application/cloudevents+avro")], "application/cloudevents+json is read"),
        (None, [("content-type", b"application/cloudevents+json; charset=utf-8")], "no CloudEvent"),
    ],
    ids=range(8),
)  # fmt: skip
def test_what_is_no_event_names_the_cause(value: bytes | None, headers: Any, words: str) -> None:
    error = mapper("cloudevents", EVENTS).map(Record(value, headers=headers)).error
    assert error and words in str(error)


# --- all of them ---


def test_a_record_has_the_same_id_at_each_delivery_and_another_on_a_new_topic() -> None:
    one = record(LAMP, KEY)
    assert record_id(one) == record_id(record(LAMP, KEY)) == f"{TOPIC}/0/0/1700000000500"
    assert record_id(one._replace(timestamp=one.timestamp + 1)) != record_id(one)
    long = record_id(one._replace(topic="t" * 249))
    assert len(long) == 64 and long != record_id(one._replace(topic="u" * 249))


@pytest.mark.parametrize("format", ["rows", "debezium", "cloudevents"])
def test_a_row_that_is_nested_deeply_is_a_dead_letter(format: str) -> None:
    deep = b'{"a":' * 600 + b"1" + b"}" * 600
    row = b'{"op": "c", "source": {}, "before": null, "after": %s}' % deep if format == "debezium" else deep
    headers = [(f"ce_{name}", b"1.0") for name in ("specversion", "id", "source", "type")]
    result = mapper(format).map(Record(row, b"7", headers=headers))
    assert result.error and result.error.reason in ("invalid-value", "undefined-field")
    result = mapper(format).map(Record(b"{}", deep, headers=headers))
    assert result.error


def test_a_placeholder_for_a_long_column_is_not_stated_and_nothing_is_forgotten() -> None:
    changed = LAMP | {"material": PLACEHOLDER}
    (mapped,) = mapper("debezium").map(record(envelope("u", None, changed), KEY)).mapped
    assert (mapped.verdict, mapped.messages) == ("unavailable", ())
    (mapped,) = mapper("rows").map(record(changed, KEY)).mapped
    assert (mapped.verdict, mapped.messages) == ("unavailable", ())


def test_an_old_row_with_the_columns_of_an_index_only_is_not_the_whole() -> None:
    before = dict.fromkeys(LAMP) | {"sku": "h-1"}  # REPLICA IDENTITY USING INDEX: what it said is unknown
    after = LAMP | {"sku": "h-2", "material": None}
    assert [one["forget_key"] for one in debezium(record(envelope("u", before, after), KEY))] == [FACT["key"]]
