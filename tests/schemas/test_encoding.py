"""Batches of fact-encodings: decoded as they were encoded, and refused if damaged or compressed."""

import random
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.common import BadMessage
from schemas.encoding import FACT_ENCODINGS, MAX_ROWS, decode_batch, encode_batch

TIME = datetime(2026, 3, 1, 12, tzinfo=UTC)


def batch(rows: int = 2, **changed: Any) -> pa.RecordBatch:
    row = {
        "kind": "fact", "topic_id": "t", "partition": 0, "offset": 1, "namespace": "default", "text": "a b",
        "observed_at": TIME, "published_at": TIME, "encoder_id": "e", "base_loss": 2.0, "recall_loss": 0.5,
        "loss_delta": 1.5, "priors": [1.0, 2.0], "surprisals": [1.0, 2.0], "vectors": b"\x00\x01",
    }  # fmt: skip
    return pa.RecordBatch.from_pylist([row | changed] * rows, schema=FACT_ENCODINGS)


def test_a_batch_is_decoded_as_it_was_encoded() -> None:
    assert decode_batch(encode_batch(batch())).equals(batch())


def several() -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, FACT_ENCODINGS) as writer:
        writer.write_batch(batch())
        writer.write_batch(batch())
    return bytes(sink.getvalue())


def compressed(codec: str) -> bytes:
    """4 MiB of zeros in a few hundred bytes of body."""
    options = pa.ipc.IpcWriteOptions(compression=codec)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, FACT_ENCODINGS, options=options) as writer:
        writer.write_batch(batch(rows=1, vectors=bytes(4 << 20)))
    return bytes(sink.getvalue())


def test_a_compressed_batch_is_refused_before_it_is_decompressed() -> None:
    for codec in ("zstd", "lz4"):
        value, before = compressed(codec), pa.default_memory_pool().max_memory()
        with pytest.raises(BadMessage, match="compressed"):
            decode_batch(value)
        assert pa.default_memory_pool().max_memory() == before


def other_columns() -> bytes:
    table = pa.table({"text": ["a"]})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


@pytest.mark.parametrize(
    "value, reason",
    [
        (None, "empty"),
        (b"", "empty"),
        (b"{}", "invalid-arrow"),
        (several(), "invalid-arrow"),
        (other_columns(), "invalid-schema"),
        (encode_batch(batch(rows=0)), "invalid-arrow"),
        (encode_batch(batch(rows=MAX_ROWS + 1)), "invalid-arrow"),
        (encode_batch(batch(namespace=None)), "invalid-field"),
    ],
)
def test_a_bad_batch_is_refused_with_its_reason(value: bytes | None, reason: str) -> None:
    with pytest.raises(BadMessage) as caught:
        decode_batch(value)
    assert caught.value.reason == reason


GOOD = encode_batch(batch())


@given(st.binary(max_size=300))
def test_random_bytes_are_not_a_batch(value: bytes) -> None:
    with pytest.raises(BadMessage):
        decode_batch(value)


@given(st.integers(0, len(GOOD) - 9), st.integers(0, 2**32))
def test_a_cut_or_damaged_batch_raises_only_bad_message(cut: int, seed: int) -> None:
    with pytest.raises(BadMessage):
        decode_batch(GOOD[: cut - cut % 8])
    damaged, chance = bytearray(GOOD), random.Random(seed)
    for _ in range(chance.randint(1, 4)):
        damaged[chance.randrange(len(damaged))] = chance.randrange(256)
    try:
        decode_batch(bytes(damaged)).to_pylist()
    except BadMessage as error:
        assert error.reason in ("invalid-arrow", "invalid-schema", "invalid-field", "empty")
