"""Dead letters: the bytes of the record, and the reason in the headers."""

from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

from schemas import dead_letter as dead_letter_schema
from schemas.topics import DEAD_LETTERS, FACTS
from tests.kafka.conftest import read_records
from workers.kafka import dead_letters
from workers.kafka.config import KafkaSettings
from workers.kafka.producer import Producer

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def test_dead_letter_keeps_value_and_key(settings: KafkaSettings, producer: Producer) -> None:
    value, key = b"\xff{not json\x00", b"\xfe key"
    producer.send(FACTS, value, key=key, partition=3, headers=[("theirs", b"x")])
    producer.flush_or_raise()
    (record,) = read_records(settings, FACTS, 1)
    dead_letters.dead_letter(producer, record, "invalid-json", "é" * 2000, "encoder", NOW)
    producer.flush_or_raise()
    (letter,) = read_records(settings, DEAD_LETTERS, 1)
    assert (letter.value, letter.key, letter.partition) == (value, key, 3)
    headers = dict(letter.headers)
    assert (
        headers.pop("theirs") == b"x"
    )  # without it a message whose meaning is in its headers could not be repeated
    assert tuple(headers) == dead_letter_schema.HEADERS
    assert len(headers.pop("error").decode()) == dead_letter_schema.MAX_ERROR_CHARS
    assert headers == {
        "topic": b"facts",
        "partition": b"3",
        "offset": b"0",
        "reason": b"invalid-json",
        "worker": b"encoder",
        "time": b"2026-03-01T12:00:00+00:00",
    }


def test_dead_letter_of_an_empty_record_is_empty(settings: KafkaSettings, producer: Producer) -> None:
    tombstone = SimpleNamespace(
        topic=settings.topic(FACTS), partition=1, offset=7, key=None, value=None, headers=[]
    )
    dead_letters.dead_letter(producer, tombstone, "empty", "no value", "encoder", NOW)
    producer.flush_or_raise()
    (letter,) = read_records(settings, DEAD_LETTERS, 1)
    assert letter.value == b"" and letter.key is None


def test_dead_letter_too_large_for_its_topic_is_cut(
    settings: KafkaSettings, producer: Producer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead_letters, "DEAD_LETTER_MAX_BYTES", 2**20)
    huge = SimpleNamespace(
        topic=settings.topic(FACTS), partition=0, offset=0, key=b"k" * 2**21, value=b"v" * 2**21, headers=[]
    )
    dead_letters.dead_letter(producer, huge, "too-large", "too large", "encoder", NOW)
    producer.flush_or_raise()
    (letter,) = read_records(settings, DEAD_LETTERS, 1)
    assert huge.value.startswith(letter.value) and huge.key.startswith(letter.key) and letter.value
    assert b"the value 2097152" in dict(letter.headers)["error"]
