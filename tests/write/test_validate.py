"""Validation of fact-encodings: every column is checked, and valid events arrive unchanged."""

import dataclasses
import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline.ingest.encoding import FactEncoding
from pipeline.memory.codec import facts_to_batch
from pipeline.memory.events import Event, ForgetRequest, NewFact, RestoreRequest, SourceOffset
from schemas import topics
from schemas.common import BadMessage
from schemas.encoding import FACT_ENCODINGS, encode_batch
from tests.write.local_writer import (
    HOME,
    PARTITIONS,
    TEXTS,
    agree,
    batch,
    decided,
    message,
    row,
    writer,
)
from workers.kafka.partitioner import partition_for
from workers.write.validate import AllRows, FactRows, KeyRows, MemoryRows, decode_events

AT = datetime(2026, 1, 2, tzinfo=UTC)
CHECKED_ELSEWHERE = {"observed_at", "published_at", "priors", "surprisals", "vectors"}


def fact(offset: int, text: str = "The lamp.", words: int = 2) -> NewFact:
    numbers = np.arange(words, dtype=np.float32)
    vectors = np.full((words, 3), offset, np.uint8)
    encoding = FactEncoding(text, "e", 2.0, 0.5, 1.5, numbers, numbers + 1, vectors)
    cause = SourceOffset("facts", "t", 1, offset)
    return NewFact(
        "n", encoding, AT - timedelta(days=1), AT, cause, 0.25, category="c", source="s", fact_id="f",
        key="k", cardinality="many", metadata='{"page":3}', valid_until=AT,
    )  # fmt: skip


def forget(offset: int, erase: bool) -> ForgetRequest:
    return ForgetRequest("n", "a" * 32, erase, AT, SourceOffset("facts", "t", 1, offset))


def test_every_column_is_checked() -> None:
    checked = {name for model in (AllRows, FactRows, KeyRows, MemoryRows) for name in model.model_fields}
    assert checked | CHECKED_ELSEWHERE == set(FACT_ENCODINGS.names)
    assert not checked & CHECKED_ELSEWHERE


def test_the_writer_decodes_the_events_that_the_encoder_sent() -> None:
    causes = [SourceOffset("facts", "t", 1, offset) for offset in range(10)]
    sent: list[Event] = [
        fact(0), forget(1, erase=False), fact(2, "...", words=0), forget(3, erase=True), fact(4),
        ForgetRequest("n", None, False, AT, causes[5], "k"),
        ForgetRequest("n", None, True, AT, causes[6], "k", AT - timedelta(hours=1)),
        ForgetRequest("n", None, False, AT, causes[7]), ForgetRequest("n", None, True, AT, causes[8], None, AT),
        RestoreRequest("n", "b" * 32, AT, causes[9]),
    ]  # fmt: skip
    received = decode_events(encode_batch(facts_to_batch(sent, "e")))
    for one, other in zip(received, sent, strict=True):
        if not isinstance(other, NewFact):
            assert one == other
            continue
        assert isinstance(one, NewFact)
        for field in dataclasses.fields(NewFact):
            if field.name != "encoding":
                assert getattr(one, field.name) == getattr(other, field.name)
        for name in ("priors", "surprisals", "vectors"):
            a, b = getattr(one.encoding, name), getattr(other.encoding, name)
            assert a.dtype == b.dtype and a.tolist() == b.tolist()
        for name in ("text", "encoder_id", "base_loss", "recall_loss", "loss_delta"):
            assert getattr(one.encoding, name) == getattr(other.encoding, name)


def test_a_writer_from_before_conversations_refuses_several_facts_of_a_record() -> None:
    """It would decide the first one only: to it the others are the same fact, sent again."""
    kinds_before = {
        "fact",
        "forget",
        "erase",
        "forget_key",
        "erase_key",
        "forget_all",
        "erase_all",
        "restore",
    }
    batch = facts_to_batch([fact(0), fact(1), fact(1)], "e")
    assert [kind in kinds_before for kind in batch.column("kind").to_pylist()] == [True, False, False]
    events = decode_events(encode_batch(batch))
    assert [(type(event), event.cause.offset) for event in events] == [
        (NewFact, 0),
        (NewFact, 1),
        (NewFact, 1),
    ]


def test_encodings_of_before_facts_had_keys_are_read() -> None:
    """They may wait on the topic while the writer is upgraded."""
    rows = [row(0, TEXTS[0]), row(1, "", kind="erase", forget="a" * 32)]
    old = pa.schema(
        field.with_nullable(False) if field.name == "observed_at" else field
        for field in FACT_ENCODINGS
        if field.name not in ("key", "cardinality", "metadata", "valid_until")
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, old) as out:
        out.write_batch(pa.RecordBatch.from_pylist(rows, schema=old))
    learned, erased = decode_events(bytes(sink.getvalue()))
    assert isinstance(learned, NewFact) and learned.encoding.text == TEXTS[0] and learned.key is None
    assert isinstance(erased, ForgetRequest) and (erased.memory_id, erased.erase) == ("a" * 32, True)


def test_each_row_must_have_the_values_of_its_own_words() -> None:
    batch = facts_to_batch([fact(0, "The lamp.", 1), fact(1, "The lamp.", 3)], "e")
    with pytest.raises(BadMessage, match="priors"):
        decode_events(encode_batch(batch))


FORGED: dict[str, Callable[[], bytes]] = {
    "not arrow": lambda: b"ARROW1 or so",
    "a loss that is NaN": lambda: message(row(0, TEXTS[0], base_loss=math.nan)),
    "an infinite surprisal": lambda: message(row(0, TEXTS[0], surprisals=[math.inf] * 5)),
    "fewer priors than words": lambda: message(row(0, TEXTS[0], priors=[1.0])),
    "no priors": lambda: message(row(0, TEXTS[0], priors=None)),
    "vectors that do not fit": lambda: message(row(0, TEXTS[0], vectors=b"123")),
    "vectors too large to publish": lambda: message(row(0, TEXTS[0], vectors=bytes(5 * 2**20))),
    "a blank text": lambda: message(row(0, " ")),
    "no text": lambda: message(row(0, TEXTS[0]) | {"text": None}),
    "an infinite threshold": lambda: message(row(0, TEXTS[0], min_loss_delta=math.inf)),
    "an unknown kind": lambda: message(row(0, TEXTS[0], kind="order")),
    "a negative offset": lambda: message(row(-1, TEXTS[0])),
    "a forget with a negative offset": lambda: message(row(-1, "", kind="forget", forget="a" * 32)),
    "a forget of nothing": lambda: message(row(0, "", kind="forget")),
    "a restore of nothing": lambda: message(row(0, "", kind="restore")),
    "a forget of no key": lambda: message(row(0, "", kind="forget_key")),
    "no time": lambda: message(row(0, TEXTS[0], observed_at=None)),
    "metadata that is no object": lambda: message(row(0, TEXTS[0], metadata="[1]")),
    "metadata that is not JSON": lambda: message(row(0, TEXTS[0], metadata="{")),
    "another cardinality": lambda: message(row(0, TEXTS[0], cardinality="two")),
    "a key in another form": lambda: message(row(0, TEXTS[0], key="Zoe\u0308")),
    "a topic id nobody has": lambda: message(row(0, TEXTS[0], topic_id="x" * 10_000)),
    "no encoder": lambda: message(row(0, TEXTS[0], encoder_id="")),
    "no namespace": lambda: message(row(0, TEXTS[0], namespace="no\nsuch")),
    "a namespace of another partition": lambda: message(row(0, TEXTS[0], namespace="elsewhere")),
    "one bad row among good ones": lambda: message(row(0, TEXTS[0]), row(1, TEXTS[1], priors=[])),
    "a time beyond the calendar": lambda: message_at(2**62),
}


def message_at(microseconds: int) -> bytes:
    at = pa.array([microseconds], pa.timestamp("us", tz="UTC"))
    table = pa.RecordBatch.from_pylist([row(0, TEXTS[0])], schema=FACT_ENCODINGS)
    columns = [at if name == "observed_at" else table.column(name) for name in FACT_ENCODINGS.names]
    return encode_batch(pa.RecordBatch.from_arrays(columns, schema=FACT_ENCODINGS))


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_message_is_a_dead_letter_and_the_writer_goes_on(name: str, tmp_path: Path) -> None:
    assert partition_for("elsewhere", PARTITIONS) != HOME
    worker, sent = writer(tmp_path)
    value = FORGED[name]()
    worker.process(batch(value, message(row(9, TEXTS[0]))))
    [letter] = sent.on(topics.DEAD_LETTERS)
    assert letter.value == value and letter.key == b"default" and dict(letter.headers)["factstream.reason"]
    assert [(d.cause.offset, d.outcome) for d in decided(tmp_path)] == [(9, "learned")]
    agree(sent, tmp_path)


def test_a_key_that_names_another_namespace_is_a_dead_letter(tmp_path: Path) -> None:
    worker, sent = writer(tmp_path)
    hits = b'{"namespace":"default","request_id":"r","answered_at":"2026-01-02T00:00:00Z","hits":[{"memory_id":"%s","gate":0.5}]}'
    for value, topic in (
        (message(row(0, TEXTS[0])), topics.FACT_ENCODINGS),
        (hits % (b"a" * 32), topics.MEMORY_HITS),
    ):
        records = batch(value, value, topic=topic)
        [(first, second)] = records.values()
        first.key, second.key = b"elsewhere", None
        worker.process(records)
    assert [dict(letter.headers)["factstream.reason"] for letter in sent.on(topics.DEAD_LETTERS)] == [
        b"key-mismatch"
    ] * 2
    assert [d.outcome for d in decided(tmp_path)] == [
        "learned",
        "used",
    ]  # a record without a key says nothing else
