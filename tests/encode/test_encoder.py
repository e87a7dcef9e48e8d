"""The encoder worker with a stand-in model: invalid records do not stop it; batches end in time."""

import math
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import numpy as np
import orjson
import pytest
from kafka import TopicPartition

from pipeline.ingest.encoder import Encoder
from pipeline.ingest.encoding import FactEncoding, Stopped, TooLong
from pipeline.memory.events import Event, ForgetRequest, NewFact, RestoreRequest
from pipeline.text.words import split
from schemas import topics
from schemas.encoding import decode_batch
from workers.encode import messages
from workers.encode import worker as encoder
from workers.kafka.config import KafkaSettings
from workers.kafka.partitioner import partition_for
from workers.kafka.producer import BATCH_OVERHEAD_BYTES
from workers.observe import metrics
from workers.runtime.signals import Stop
from workers.write.validate import decode_events

PARTITIONS = 4
HOME = partition_for("default", PARTITIONS)


class Model:
    encoder_id, frequencies = "e", SimpleNamespace(max_nll=10.0)

    def encode_each(self, texts: Sequence[str], stop: Callable[[], bool]) -> list[FactEncoding | TooLong]:
        if stop():
            raise Stopped
        return [TooLong("too many tokens") if "long" in text else _encoding(text) for text in texts]


def _encoding(text: str) -> FactEncoding:
    ones = np.ones(len(split(text)), np.float32)
    loss = math.nan if "odd" in text else 2.0
    return FactEncoding(text, "e", loss, 1.0, 1.0, ones, ones, np.zeros((len(ones), 0), np.uint8))


class Sent:
    def __init__(self) -> None:
        self.settings = KafkaSettings()
        self.records: list[SimpleNamespace] = []

    def send(
        self,
        topic: str,
        value: bytes,
        key: bytes | None,
        partition: int,
        headers: Iterable[tuple[str, bytes]] = (),
    ) -> None:
        texts = {name: text.decode() for name, text in headers}
        self.records.append(
            SimpleNamespace(topic=topic, value=value, key=key, partition=partition, headers=texts)
        )

    def flush_or_raise(self) -> list[Any]:
        return []

    def reasons(self) -> dict[bytes, str]:
        return {
            r.value: r.headers["factstream.reason"] for r in self.records if r.topic == topics.DEAD_LETTERS
        }

    def events(self) -> list[Event]:
        sent = [r for r in self.records if r.topic == topics.FACT_ENCODINGS]
        return [event for r in sent for event in decode_events(r.value)]

    def facts(self) -> list[NewFact]:
        return [event for event in self.events() if isinstance(event, NewFact)]

    def texts(self) -> list[str]:
        return [fact.encoding.text for fact in self.facts()]


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Sent:
    monkeypatch.setattr(Encoder, "load", lambda *_: Model())
    made = Sent()
    monkeypatch.setattr(KafkaSettings, "producer", lambda _: made)
    return made


def worker(stop: Stop | None = None, strict: bool = False) -> encoder.EncoderWorker:
    made = encoder.EncoderWorker(KafkaSettings(), "default", stop=stop, strict=strict)
    made.load(alone=False)
    consumer = SimpleNamespace(partitions_for_topic=lambda _: set(range(PARTITIONS)))
    made.start(consumer, {topics.FACTS: "id"})
    return made


def batch(
    *values: bytes, partition: int = HOME, key: bytes | None = None, at: int = 0
) -> dict[Any, list[Any]]:
    records = [
        SimpleNamespace(topic="facts", partition=partition, offset=i, key=key, value=value, timestamp=at, headers=[])
        for i, value in enumerate(values)
    ]  # fmt: skip
    return {TopicPartition("facts", partition): records}


def test_each_invalid_fact_is_a_dead_letter_and_the_others_go_on(sent: Sent) -> None:
    bad = {
        b"{": "invalid-json",
        b'{"text": "a long one"}': "too-long",
        b'{"text": "an odd one"}': "not-measurable",
        b'{"text": "a", "min_loss_delta": 1e300}': "invalid-field",
        b'{"text": "a", "min_loss_delta": NaN}': "invalid-json",
    }
    done = worker().process(batch(b'{"text": "first"}', *bad, b'{"text": "last"}'))
    assert sent.reasons() == bad
    assert [(fact.encoding.text, fact.cause.offset) for fact in sent.facts()] == [("first", 0), ("last", 6)]
    assert done.fields == {"facts": 2, "dead_letters": 5} and done.offsets is None


def test_an_impossible_kafka_timestamp_is_a_dead_letter(sent: Sent) -> None:
    worker().process(batch(b'{"text": "a"}', at=2**62))
    assert sent.reasons() == {b'{"text": "a"}': "invalid-timestamp"}


def test_a_fact_without_a_time_has_the_kafka_timestamp(sent: Sent) -> None:
    own = b'{"text": "b", "observed_at": "2020-01-01T00:00:00Z"}'
    worker().process(batch(b'{"text": "a"}', own, at=1_700_000_000_000))
    kafka, own_time = datetime.fromtimestamp(1_700_000_000, UTC), datetime(2020, 1, 1, tzinfo=UTC)
    assert [(fact.observed_at, fact.published_at) for fact in sent.facts()] == [
        (kafka, kafka),
        (own_time, kafka),
    ]


def test_unknown_fields_are_counted_unless_strict_refuses_them(sent: Sent) -> None:
    value, before = b'{"text": "a", "op": "u", "ts": 1}', metrics.UNKNOWN_FIELDS._value.get()
    worker().process(batch(value))
    assert sent.texts() == ["a"] and metrics.UNKNOWN_FIELDS._value.get() == before + 2
    worker(strict=True).process(batch(value))
    assert sent.texts() == ["a"] and sent.reasons() == {value: "unknown-field"}


def test_the_labels_and_requests_of_a_record_reach_the_writer(sent: Sent) -> None:
    fact = {
        "text": "a", "key": "k", "cardinality": "many", "fact_id": 7, "metadata": {"b": 1, "a": [None]},
        "valid_until": 1_800_000_000_000,
    }  # fmt: skip
    requests = [
        {"forget_key": "k", "observed_at": "2020-01-01T00:00:00Z"}, {"forget_all": True, "erase": True}, {"restore": "0" * 32},
    ]  # fmt: skip
    worker().process(batch(*map(orjson.dumps, (fact, *requests)), key=b'"Acme/Sales"'))
    taken, by_key, everything, restored = sent.events()
    assert isinstance(taken, NewFact) and taken.namespace == "Acme/Sales"
    assert (taken.key, taken.cardinality, taken.fact_id, taken.metadata) == (
        "k",
        "many",
        "7",
        '{"a":[null],"b":1}',
    )
    assert taken.valid_until == datetime(2027, 1, 15, 8, tzinfo=UTC)
    assert isinstance(by_key, ForgetRequest) and isinstance(everything, ForgetRequest)
    assert (by_key.key, by_key.observed_at, by_key.erase) == ("k", datetime(2020, 1, 1, tzinfo=UTC), False)
    assert (everything.memory_id, everything.key, everything.erase) == (None, None, True)
    assert isinstance(restored, RestoreRequest) and restored.memory_id == "0" * 32


def test_messages_go_to_the_partition_of_their_namespace_in_order(sent: Sent) -> None:
    facts = [b'{"text": "fact %d", "namespace": "%s"}' % (i, (b"a", b"b")[i % 2]) for i in range(200)]
    forget = b'{"forget": "%s", "namespace": "a"}' % (b"0" * 32)
    erase = b'{"forget": "%s", "namespace": "a", "erase": true}' % (b"0" * 32)
    worker().process(batch(*facts, forget, erase, partition=1))
    assert [e.erase for e in sent.events() if isinstance(e, ForgetRequest)] == [False, True]
    for record in sent.records:
        rows = decode_batch(record.value)
        assert {row["namespace"] for row in rows.to_pylist()} == {record.key.decode()}
        assert record.partition == partition_for(record.key.decode(), PARTITIONS)
        assert rows.num_rows <= messages.ROWS
    for namespace, count in (("a", 102), ("b", 100)):
        offsets = [event.cause.offset for event in sent.events() if event.namespace == namespace]
        assert len(offsets) == count and offsets == sorted(offsets)


def test_messages_are_bounded_by_size_as_well(sent: Sent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "MESSAGE_BYTES", 40)
    worker().process(
        batch(*[b'{"text": "fact %d"}' % n for n in range(5)])
    )  # 6 characters and two words each
    assert [decode_batch(record.value).num_rows for record in sent.records] == [1] * 5
    assert sent.texts() == [f"fact {n}" for n in range(5)]


def test_a_fact_whose_memory_fits_no_record_is_a_dead_letter(
    sent: Sent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(KafkaSettings, "max_bytes", lambda self, name: 2 * BATCH_OVERHEAD_BYTES + 100)
    worker().process(batch(b'{"text": "short"}', b'{"text": "one that is much more like a story"}'))
    assert sent.texts() == ["short"]
    assert list(sent.reasons().values()) == ["too-large"]


def test_a_long_batch_ends_early_with_the_next_offsets(sent: Sent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder, "BATCH_S", 0.0)
    monkeypatch.setattr(encoder, "PIECE_BYTES", 3)
    values = [b'{"text": "%d"}' % i for i in range(8)]  # a byte each, so three a piece
    waiting = batch(*values[:4], partition=0, at=2) | batch(*values[4:], partition=1, at=1)
    done = worker().process(waiting)
    assert done.offsets == {TopicPartition("facts", 1): 3}  # of the partition whose facts wait longest
    assert sent.texts() == ["4", "5", "6"]


def test_a_worker_that_must_stop_leaves_the_rest_of_its_batch(
    sent: Sent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoder, "PIECE_BYTES", 1)
    stop = Stop()
    made = worker(stop)

    def send_and_stop(*given: Any) -> None:
        messages.send(*given)
        stop.set()

    monkeypatch.setattr(encoder, "send", send_and_stop)
    done = made.process(batch(b'{"text": "a"}', b"{", b'{"text": "b"}'))
    assert sent.texts() == ["a"] and sent.reasons() == {}
    assert done.offsets == {TopicPartition("facts", HOME): 1}
    again = made.process(batch(b"{", b'{"text": "b"}'))
    assert again.offsets == {} and len(sent.events()) == 1, "else it would be committed unread"


def test_a_message_is_sent_only_after_the_one_before_it_arrived(
    sent: Sent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a producer that gives up a record and delivers the next would lose facts: the writer goes by the offset."""
    ahead = list[bytes]()
    send = sent.send

    def arrived() -> list[Any]:
        ahead.clear()
        return []

    def careful(topic: str, value: bytes, key: bytes, *more: Any, **others: Any) -> None:
        assert key not in ahead
        ahead.append(key)
        send(topic, value, key, *more, **others)

    monkeypatch.setattr(sent, "send", careful)
    monkeypatch.setattr(sent, "flush_or_raise", arrived)
    facts = [b'{"text": "fact %d", "namespace": "%s"}' % (i, (b"a", b"b")[i % 2]) for i in range(400)]
    worker().process(batch(*facts))
    assert len(sent.events()) == 400 and not ahead
