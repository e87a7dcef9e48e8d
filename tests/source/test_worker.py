"""The source worker with a stand-in producer: order, dead letters, tombstones, partial batches."""

import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from kafka import TopicPartition

from schemas.dead_letter import decode_headers
from schemas.topics import DEAD_LETTERS, FACTS
from tests.source.records import TOPIC, Record, envelope, record
from tests.source.stub_registry import StubRegistry, running
from workers.kafka.config import KafkaSettings
from workers.runtime.worker import Retry
from workers.source import worker as source
from workers.source.config import parse

CONFIG = f"""
sources:
  - topic: {TOPIC}
    format: debezium
    statements:
      material: "The {{{{ row.name }}}} is made of {{{{ row.material }}}}."
"""
LAMP = {"id": 7, "name": "Lamp", "material": "walnut"}
KEY = {"id": 7}


class Sent:
    """A producer that keeps what is sent, with None for each flush."""

    def __init__(self) -> None:
        self.settings = KafkaSettings()
        self.log: list[SimpleNamespace | None] = []

    def send(
        self, topic: str, value: bytes, key: bytes | None, partition: int | None, headers: Any = ()
    ) -> None:
        self.log.append(
            SimpleNamespace(topic=topic, value=value, key=key, partition=partition, headers=list(headers))
        )

    def flush_or_raise(self) -> None:
        self.log.append(None)

    def close(self) -> None: ...

    def of(self, topic: str) -> list[SimpleNamespace]:
        return [one for one in self.log if one and one.topic == topic]

    def bodies(self) -> list[dict[str, Any]]:
        return [json.loads(one.value) for one in self.of(FACTS)]


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Sent:
    made = Sent()
    monkeypatch.setattr(KafkaSettings, "producer", lambda _: made)
    return made


def worker(config: str = CONFIG, partitions: int = 4) -> source.SourceWorker:
    made = source.SourceWorker(KafkaSettings(), parse(config))
    made.start(SimpleNamespace(partitions_for_topic=lambda _: set(range(partitions))), {})
    return made


def batch(*given: Record, partition: int = 0, start: int = 0) -> dict[Any, list[Any]]:
    placed = [one._replace(partition=partition, offset=start + n) for n, one in enumerate(given)]
    return {TopicPartition(given[0].topic, partition): placed}


def change(op: str, material: str | None, ts_ms: int = 1000) -> Record:
    after = None if material is None else LAMP | {"material": material}
    return record(envelope(op, None, after, ts_ms), KEY)


def test_facts_go_to_their_namespace_with_the_trace_of_their_record(sent: Sent) -> None:
    trace = ("traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    done = worker().process(batch(change("c", "walnut")._replace(headers=[trace])))
    (fact,) = sent.of(FACTS)
    assert fact.key == b"default" and fact.partition is None and fact.headers == [trace]
    assert done.fields == {"states": 1} and done.offsets is None and sent.log[-1] is None


def test_a_second_message_about_a_statement_waits_for_the_first(sent: Sent) -> None:
    other = record(envelope("c", None, LAMP | {"id": 8}), {"id": 8})
    worker().process(batch(change("c", "walnut"), other, change("u", "oak"), change("d", None)))
    assert ["flush" if one is None else json.loads(one.value).get("text", "forget") for one in sent.log] == [
        "The Lamp is made of walnut.", "The Lamp is made of walnut.", "flush", "The Lamp is made of oak.", "flush",
        "forget", "flush",
    ]  # fmt: skip


def test_a_dead_letter_has_the_bytes_the_headers_and_the_real_cause(sent: Sent) -> None:
    bad = Record(b"\0\0\0\0\x07\xff", b"\xfe", headers=[("theirs", b"x"), ("none", None)])
    good = change("c", "walnut")
    done = worker().process(batch(bad, good, partition=9))
    (letter,) = sent.of(DEAD_LETTERS)
    assert (letter.value, letter.key, letter.partition) == (bad.value, bad.key, 9 % 4)
    assert dict(letter.headers)["theirs"] == b"x" and "none" in dict(letter.headers)
    row = decode_headers(letter.headers)
    assert row["reason"] == "invalid-key" and row["error"].endswith("it begins with the bytes fe")
    assert (row["topic"], row["partition"], row["worker"]) == (TOPIC, 9, "source")
    assert done.fields == {"states": 1, "dead_letters": 1} and len(sent.bodies()) == 1


def test_framing_without_a_registry_is_named_in_the_dead_letter(sent: Sent) -> None:
    worker().process(batch(Record(b"\0\0\0\0\x07abc", b'{"id": 7}')))
    row = decode_headers(sent.of(DEAD_LETTERS)[0].headers)
    assert row["error"] == "Confluent framing, schema id 7; configure a registry"
    assert row["reason"] == "no-registry"


def test_the_tombstone_after_a_deletion_is_an_echo_also_in_the_next_batch(sent: Sent) -> None:
    made, tombstone = worker(), record(None, KEY)
    made.assigned([TopicPartition(TOPIC, 0)])
    made.process(batch(change("c", "walnut"), change("d", None)))
    made.process(batch(tombstone, tombstone, start=2))
    forgets = [body["observed_at"] for body in sent.bodies() if "forget_key" in body]
    # the second one follows no deletion: what it followed was compacted away
    assert forgets == ["1970-01-01T00:00:01+00:00", "2023-11-14T22:13:20.500000+00:00"]


def test_the_first_record_that_is_read_is_an_echo_if_it_is_a_tombstone(sent: Sent) -> None:
    made = worker()
    made.process(batch(record(None, KEY), change("c", "walnut"), record(None, {"id": 8})))
    made.assigned([TopicPartition(TOPIC, 0)])
    made.process(batch(record(None, KEY), start=3))
    assert [body.get("forget_key") for body in sent.bodies()] == [None, f"{TOPIC}:8:material"]


def test_tombstones_of_flat_rows_are_deletions_always(sent: Sent) -> None:
    made = worker(CONFIG.replace("debezium", "rows"))
    made.process(batch(record(None, KEY), record(None, KEY)))
    assert [body["forget_key"] for body in sent.bodies()] == [f"{TOPIC}:7:material"] * 2


def test_what_there_is_no_time_for_is_left(sent: Sent, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 100, 3))
    monkeypatch.setattr("workers.source.worker.time.monotonic", lambda: next(clock))
    given = batch(*(record(envelope("c", None, LAMP | {"id": n}), {"id": n}) for n in range(5)), start=10)
    done = worker().process(given)
    assert done.offsets == {TopicPartition(TOPIC, 0): 12} and len(sent.bodies()) == 2


def test_a_source_is_never_a_topic_of_factstream() -> None:
    config = parse(CONFIG.replace(TOPIC, "x.facts"))
    assert source.SourceWorker(KafkaSettings(), config).upstream == ["x.facts"]
    with pytest.raises(ValueError, match=r"x\.facts is a topic of factstream itself"):
        source.SourceWorker(KafkaSettings(topic_prefix="x."), config)


@pytest.fixture
def registry() -> Iterator[StubRegistry]:
    with running() as made:
        made.add("s", {"schema": '{"type": "object"}', "schemaType": "JSON"})
        yield made


def test_a_registry_that_is_away_delays_and_makes_no_dead_letter(sent: Sent, registry: StubRegistry) -> None:
    made = worker(CONFIG + f"registry: {{url: '{registry.url}'}}")
    framed = Record(b"\0\0\0\0\x07" + (change("c", "oak").value or b""), b'{"id": 7}')
    given = batch(change("c", "walnut"), framed, change("u", "ash"))
    registry.status = 503
    done = made.process(given)
    assert done.offsets == {TopicPartition(TOPIC, 0): 1}  # what came before is done
    rest = {tp: records[1:] for tp, records in given.items()}
    with pytest.raises(Retry, match="answers with status 503"):
        made.process(rest)
    registry.status = 200
    assert made.process(rest).offsets is None
    assert [body["text"].split()[-1] for body in sent.bodies()] == ["walnut.", "oak.", "ash."]
    assert sent.of(DEAD_LETTERS) == []


def test_an_unknown_schema_is_a_dead_letter(sent: Sent, registry: StubRegistry) -> None:
    worker(CONFIG + f"registry: {{url: '{registry.url}'}}").process(batch(Record(b"\0\0\0\0\x63abc", b"7")))
    assert decode_headers(sent.of(DEAD_LETTERS)[0].headers)["reason"] == "unknown-schema"
