"""encode_table: a pure function of each record, whatever else is in the table."""

from typing import Any

import pyarrow as pa
import pytest

from pipeline.encode.table import encode_table
from pipeline.ingest.encoding import Stopped
from schemas.encoding import FACT_ENCODINGS, encode_batch
from schemas.files.encoded import ENCODED, FACT_RECORDS, REFUSED
from tests.bulk.stack import AT
from tests.encode.test_encoder import Model
from workers.write.validate import decode_events

VALUES = (
    b'{"text": "Lake Vorren is deep.", "namespace": "lakes", "fact_id": 7, "metadata": {"a": 1}}',
    b"{",
    b'{"messages": [{"role": "user", "content": "My dog is called Rex. I live in Oslo. My cat is called Tom."}], "min_loss_delta": 0}',
    b'{"text": "a long one"}',
    b'{"forget_key": "k", "namespace": "lakes"}',
    b'{"text": "an odd one"}',
    b'{"messages": [{"role": "user", "content": "Hello!"}]}',
    None,
)


def records(values: Any, begin: int = 0) -> pa.Table:
    rows = [
        {"topic_id": "job", "partition": 0, "offset": begin + n, "published_at": AT, "value": value}
        for n, value in enumerate(values)
    ]
    return pa.Table.from_pylist(rows, FACT_RECORDS)


def test_every_record_has_its_rows_or_is_refused() -> None:
    table = encode_table(records(VALUES), Model())  # type: ignore[arg-type]
    assert table.schema.equals(ENCODED)
    kinds: dict[int, list[str]] = {}
    for row in table.to_pylist():
        kinds.setdefault(row["offset"], []).append(row["kind"])
    assert list(kinds) == list(range(len(VALUES)))
    assert kinds[2] == ["stated"] * 3 and kinds[6] == ["nothing"]
    refused = [row for row in table.to_pylist() if row["kind"] == REFUSED]
    assert [(row["value"], row["reason"]) for row in refused] == [
        (VALUES[1], "invalid-json"), (VALUES[3], "too-long"), (VALUES[5], "not-measurable"), (None, "empty")
    ]  # fmt: skip
    texts = [row["text"] for row in table.to_pylist() if row["offset"] == 2]
    assert [word for word, text in zip(("Rex", "Oslo", "Tom"), texts, strict=True) if word in text] == [
        "Rex", "Oslo", "Tom",
    ]  # fmt: skip


def test_the_rows_are_what_a_writer_takes() -> None:
    encoded = encode_table(records(VALUES), Model())  # type: ignore[arg-type]
    taken = encoded.filter(pa.compute.not_equal(encoded["kind"], REFUSED)).select(FACT_ENCODINGS.names)
    [batch] = taken.cast(FACT_ENCODINGS).combine_chunks().to_batches()
    assert len(decode_events(encode_batch(batch))) == batch.num_rows == 6


def test_a_table_may_be_cut_anywhere_and_reordered() -> None:
    model: Any = Model()
    whole = encode_table(records(VALUES), model)
    pieces = [encode_table(records(VALUES[n : n + 3], n), model) for n in (6, 0, 3)]
    assert pa.concat_tables([pieces[1], pieces[2], pieces[0]]).equals(whole)
    backwards = encode_table(records(VALUES).take(list(reversed(range(len(VALUES))))), model)
    assert backwards.equals(whole)


def test_it_stops_when_asked() -> None:
    with pytest.raises(Stopped):
        encode_table(records(VALUES), Model(), lambda: True)  # type: ignore[arg-type]
