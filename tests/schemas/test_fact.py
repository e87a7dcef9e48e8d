"""Records on `facts`: what real producers send is read, and what is not a fact is refused."""

import json
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.changelog import MemoryRecord, changelog_key, decode_changelog, split_key
from schemas.common import BadMessage, encode
from schemas.fact import Fact, decode_fact

TIME = datetime(2026, 3, 1, 12, tzinfo=UTC)
ID = "0123456789abcdef" * 2

words = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=64)
times = st.datetimes(timezones=st.sampled_from([UTC, timezone(timedelta(hours=-7))])).filter(
    lambda time: 1 < time.year < 9999
)
facts = st.builds(
    Fact,
    text=words.filter(str.strip),
    category=st.none() | words,
    namespace=st.none() | words,
    fact_id=st.none() | words,
    source=st.none() | words,
    key=st.none() | words,
    cardinality=st.sampled_from([None, "one", "many"]),
    metadata=st.none() | st.dictionaries(words, st.none() | st.integers(-(2**53), 2**53) | words, max_size=3),
    observed_at=st.none() | times,
    valid_until=st.none() | times,
    min_loss_delta=st.none() | st.floats(allow_nan=False, allow_infinity=False),
)


@given(facts)
def test_any_fact_is_decoded_as_it_was_encoded(fact: Fact) -> None:
    namespace, back, unknown = decode_fact(None, encode(fact))
    assert back == fact and namespace == (fact.namespace or "default") and not unknown


@pytest.mark.parametrize("strict", [False, True])
def test_a_field_that_is_null_is_none(strict: bool) -> None:
    """As serializers of one class for all records write it."""
    nulls = dict.fromkeys(("text", "forget", "forget_key", "forget_all", "restore", "erase", "observed_at"))
    for field in ("text", "forget_key"):
        _, message, unknown = decode_fact(None, json.dumps(nulls | {field: "a"}).encode(), strict)
        assert (getattr(message, field), unknown) == ("a", [])


BAD: list[tuple[str, bytes | None, bytes | None, str]] = [
    ("tombstone", b"default", None, "empty"),
    ("empty", None, b"", "invalid-json"),
    ("malformed JSON", None, b'{"text": "a"', "invalid-json"),
    ("an array", None, b'["a"]', "invalid-json"),
    ("deep JSON", None, b'{"text":' + b"[" * 50_000 + b"]" * 50_000 + b"}", "invalid-json"),
    ("NaN", None, b'{"text": "a", "min_loss_delta": NaN}', "invalid-json"),
    ("infinity", None, b'{"text": "a", "min_loss_delta": 1e999}', "invalid-json"),
    ("lone surrogate", None, b'{"text": "\\ud800"}', "invalid-json"),
    ("invalid UTF-8", None, b'{"text": "\xff"}', "invalid-utf8"),
    ("2 MB", None, b'{"text": "' + b"a" * 2_000_000 + b'"}', "too-large"),
    ("long in bytes only", None, json.dumps({"text": "é" * 5000}).encode(), "invalid-field"),
    ("blank", None, b'{"text": " \\t "}', "invalid-field"),
    ("no text", None, b"{}", "invalid-field"),
    ("control character", None, b'{"text": "a\\u001b[2J"}', "invalid-field"),
    ("control character, C1", None, '{"text": "a\x9b"}'.encode(), "invalid-field"),
    ("a number as time", None, b'{"text": "a", "observed_at": 1700000000}', "invalid-field"),
    ("time out of range", None, b'{"text": "a", "observed_at": "0001-01-01T00:00:00+14:00"}', "invalid-field"),
    ("a number too large as time", None, b'{"text": "a", "observed_at": 1772366400000000000}', "invalid-field"),
    ("a fact and a request", None, b'{"text": "a", "forget_all": true}', "invalid-field"),
    ("two requests", None, b'{"forget_key": "a", "forget_all": true}', "invalid-field"),
    ("deep metadata", None, b'{"text": "a", "metadata": {"a":' + b"[" * 400 + b"]" * 400 + b"}}", "invalid-field"),
    ("large metadata", None, b'{"text": "a", "metadata": {"a": "' + b"a" * 4096 + b'"}}', "invalid-field"),
    ("long namespace", None, b'{"text": "a", "namespace": "' + b"a" * 129 + b'"}', "invalid-field"),
    ("namespace and line break", None, b'{"text": "a", "namespace": "a\\n"}', "invalid-field"),
    ("key is a binary number", b"\0\0\0\7", b'{"text": "a"}', "invalid-key"),
    ("key is no UTF-8", b"\xff", b'{"text": "a"}', "invalid-key"),
    ("key says another", b"one", b'{"text": "a", "namespace": "two"}', "key-mismatch"),
    ("forget no memory", None, b'{"forget": "all"}', "invalid-field"),
]  # fmt: skip


@pytest.mark.parametrize("key, value, reason", [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_a_bad_fact_is_refused_with_its_reason(key: bytes | None, value: bytes | None, reason: str) -> None:
    with pytest.raises(BadMessage) as caught:
        decode_fact(key, value)
    assert caught.value.reason == reason
    assert 0 < len(str(caught.value)) < 500, "one line for a person, not the message again"


def test_the_namespace_is_that_of_the_body_else_the_key_else_default() -> None:
    assert decode_fact(b"one", b'{"text": "a"}')[0] == "one"
    assert decode_fact(None, b'{"text": "a", "namespace": "two"}')[0] == "two"
    assert decode_fact(b"two", b'{"text": "a", "namespace": "two"}')[0] == "two"
    assert decode_fact(None, b'{"text": "a"}')[0] == decode_fact(b"", b'{"text": "a"}')[0] == "default"


def test_a_time_without_offset_is_utc() -> None:
    for time in ('"2026-03-01T12:00:00"', '"2026-03-01T13:00:00+0100"', "1772366400000"):
        fact = decode_fact(None, f'{{"text": "a", "observed_at": {time}}}'.encode()).message
        assert isinstance(fact, Fact) and fact.observed_at == TIME


def test_unknown_fields_are_left_out_and_named_unless_strict() -> None:
    value = b'{"text": "a", "color": "red", "op": "u"}'
    record = decode_fact(None, value)
    assert record.message == Fact(text="a") and record.unknown == ["color", "op"]
    with pytest.raises(BadMessage) as caught:
        decode_fact(None, value, strict=True)
    assert caught.value.reason == "unknown-field"


def test_json_after_a_byte_order_mark_is_read() -> None:
    assert decode_fact(None, b'\xef\xbb\xbf{"text": "a"}').message == Fact(text="a")


def test_namespaces_are_any_text_and_have_one_form() -> None:
    decomposed, composed = "Zoe\u0308 / sales", "Zo\u00eb / sales"
    for key in (decomposed, composed, json.dumps(composed), json.dumps(composed, ensure_ascii=False)):
        assert decode_fact(key.encode(), b'{"text": "a"}').namespace == composed
    body = json.dumps({"text": "a", "namespace": decomposed}).encode()
    assert decode_fact(composed.encode(), body).namespace == composed
    memory = MemoryRecord(
        memory_id=ID, namespace="acme/sales", text="a", observed_at=TIME, learned_at=TIME, importance=0.0, loss_delta=1.0,
        encoder_id="e", priors=b"", surprisals=b"", vectors=b"",
    )  # fmt: skip
    assert decode_changelog(changelog_key("acme/sales", ID), encode(memory)) == memory
    assert split_key(changelog_key("acme/sales")) == ("acme/sales", "")


def test_an_integer_is_a_fact_id() -> None:
    fact = decode_fact(None, b'{"text": "a", "fact_id": 17}').message
    assert isinstance(fact, Fact) and fact.fact_id == "17"
