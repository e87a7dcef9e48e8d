"""The decoder of fetched batches: every codec, under a size limit, and unreadable batches."""

import gzip
import random
import tracemalloc
from types import SimpleNamespace
from typing import Any

import lz4.frame
import pyarrow as pa
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from kafka import TopicPartition
from kafka.protocol.consumer.offsets import IsolationLevel
from kafka.record.memory_records import MemoryRecords

from schemas import topics
from tests.helpers import hostile
from workers.kafka.admin import ensure_topics
from workers.kafka.config import KafkaSettings
from workers.kafka.consumer import MAX_HEADERS, MAX_UNPACKED, POLL_BYTES, Unreadable, _PartitionRecords

PLACE = TopicPartition("facts", 0)
GOOD = hostile.records((b"ada", b'{"text":"one"}'), (None, None), headers=[("trace", b"7"), ("none", None)])
ZEROS = bytes(MAX_UNPACKED + 1)
BOMBS = {
    "gzip": (1, gzip.compress(ZEROS, 1)),
    "snappy": (2, pa.compress(ZEROS, codec="snappy", asbytes=True)),
    "xerial": (2, hostile.xerial(ZEROS)),
    "snappy that only says so": (2, b"\xff\xff\xff\xff\x0f\x00"),
    "lz4": (3, lz4.frame.compress(ZEROS)),
    "lz4 that says more": (3, lz4.frame.compress(ZEROS, store_size=True)),
    "zstd": (4, zstandard.compress(ZEROS)),
    "zstd with a window of a gigabyte": (4, bytes.fromhex("28b52ffd") + b"\x00\xa8" + bytes(8)),
    "many small gzip members": (1, gzip.compress(bytes(1 << 20), 1) * 18),
}


def read(raw: bytes, start: int = 0, **options: Any) -> list[Any]:
    part = _PartitionRecords(start, PLACE, MemoryRecords(raw), **options)
    return part.take(1_000_000)


@pytest.mark.parametrize("name", hostile.CODECS)
def test_every_codec_is_read(name: str) -> None:
    codec, pack = hostile.CODECS[name]
    first, second = read(hostile.batch(pack(GOOD), codec, count=2))
    assert (first.key, first.value, first.offset) == (b"ada", b'{"text":"one"}', 0)
    assert first.headers == [("trace", b"7"), ("none", None)] and first.timestamp == 1_700_000_000_000
    assert (second.key, second.value, second.offset) == (None, None, 1)


@pytest.mark.parametrize("name", BOMBS)
def test_decompression_bomb_is_not_unpacked(name: str) -> None:
    codec, data = BOMBS[name]
    raw = hostile.batch(data, codec)
    tracemalloc.start()
    try:
        [bad] = read(raw)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert isinstance(bad, Unreadable) and bad.value == raw and bad.offset == 0
    assert peak < 3 * MAX_UNPACKED


@pytest.mark.parametrize(
    ("raw", "error"),
    [
        (hostile.batch(GOOD, count=2, crc=7), "checksum"),
        (hostile.batch(GOOD, count=2, magic=1), "v1"),
        (hostile.batch(GOOD, count=2, codec=7), "codec 7"),
        (hostile.batch(GOOD, count=-1), "after the last"),
        (hostile.batch(b"\x7f" * 40), "outside"),
        (hostile.batch(b"\x0c\x00\x00\x7f\x01\x01\x00"), "offset"),
        (hostile.batch(gzip.compress(GOOD)[:-9], 1, count=2), "EOFError"),
        (hostile.batch(b"no gzip", 1), "BadGzipFile"),
        (hostile.batch(b"this is no lz4 frame at all", 3), "LZ4"),
        (hostile.batch(b"no zstd", 4), "Zstd"),
        (hostile.batch(b"no snappy", 2), "snappy"),
        (hostile.batch(b"\x82SNAPPY\x00" + bytes(8) + b"\x7f\xff\xff\xff", 2), "outside"),
    ],
)
def test_unreadable_batch_becomes_one_record(raw: bytes, error: str) -> None:
    after = hostile.batch(hostile.records((b"ada", b"next")), offset=2)
    bad, good = read(raw + after)
    assert isinstance(bad, Unreadable) and bad.value == raw and bad.key is None
    assert error.lower() in bad.error.lower()
    assert good.value == b"next" and good.offset == 2


def test_records_before_a_broken_one_are_read() -> None:
    one = hostile.records((b"ada", b"first"))
    raw = hostile.batch(one + b"\x7f" * 40, count=2)
    good, bad = read(raw)
    assert good.value == b"first" and not isinstance(good, Unreadable)
    assert isinstance(bad, Unreadable) and bad.offset == 1 and bad.value == raw
    assert read(raw, start=2) == []  # a consumer that is past it does not see it again


ABORTED, OTHER = 7, 8  # producers


def in_transaction(offset: int, value: bytes | None, producer: int) -> bytes:
    """A batch of a transaction; without a value, the control batch that ends it."""
    content = hostile.records((b"ada", value) if value else (bytes(4), bytes(6)))
    return hostile.batch(content, 0x10 if value else 0x30, offset=offset, producer=producer)


@pytest.mark.parametrize(
    ("isolation", "values"),
    [
        (IsolationLevel.READ_COMMITTED, [b"other", b"plain", b"next"]),
        (IsolationLevel.READ_UNCOMMITTED, [b"aborted", b"other", b"plain", b"aborted", b"next"]),
    ],
)
def test_aborted_transaction_is_read_only_uncommitted(isolation: IsolationLevel, values: list[bytes]) -> None:
    raw = b"".join([
        in_transaction(0, b"aborted", ABORTED),
        in_transaction(1, b"other", OTHER),
        hostile.batch(hostile.records((b"ada", b"plain")), offset=2, producer=ABORTED),  # before it began one
        in_transaction(3, b"aborted", ABORTED),
        in_transaction(4, None, ABORTED),
        in_transaction(5, None, OTHER),
        in_transaction(6, b"next", ABORTED),
        in_transaction(7, None, ABORTED),
    ])  # fmt: skip
    listed = [SimpleNamespace(producer_id=ABORTED, first_offset=0)]
    read_back = read(raw, isolation_level=isolation, aborted_transactions=listed)
    assert [record.value for record in read_back] == values


def test_headers_are_bounded_and_their_names_may_be_any_bytes() -> None:
    [record] = read(hostile.batch(hostile.records((b"a", b"b"), headers=[("h", b"v")] * 100_000)))
    assert record.value == b"b" and len(record.headers) == MAX_HEADERS
    odd = hostile.records((b"a", b"b"), headers=[("hh", b"v")]).replace(b"hh", b"\xff\xfe")
    [record] = read(hostile.batch(odd))
    assert record.value == b"b" and record.headers == [("\ufffd\ufffd", b"v")]


@given(st.sampled_from(range(8)), st.binary(max_size=300), st.integers(-(2**31), 2**31 - 1))
def test_random_bytes_do_not_stop_the_decoder(codec: int, packed: bytes, count: int) -> None:
    raw = hostile.batch(packed, codec, count)
    after = hostile.batch(hostile.records((b"ada", b"next")), offset=2**40)
    *_, last = read(raw + after)
    assert last.value == b"next"


@given(st.sampled_from(sorted(hostile.CODECS)), st.integers(0), st.data())
def test_corrupted_bytes_do_not_stop_the_decoder(name: str, seed: int, data: Any) -> None:
    codec, pack = hostile.CODECS[name]
    packed = bytearray(pack(GOOD))
    dice = random.Random(seed)
    for _ in range(dice.randint(1, 4)):
        packed[dice.randrange(len(packed))] = dice.randrange(256)
    del packed[data.draw(st.integers(0, len(packed))) :]
    for record in read(hostile.batch(bytes(packed), codec, count=2)):
        assert isinstance(record, Unreadable) or len(record.value or b"") <= len(GOOD)


def test_poll_is_bounded_by_size(settings: KafkaSettings) -> None:
    """Twelve records of 8 MiB of zeros, each in a few hundred bytes: they come, but not in one poll."""
    ensure_topics(settings)
    admin = settings.admin()
    value = bytes(8 << 20)
    raw = hostile.batch(zstandard.compress(hostile.records((b"default", value))), 4)
    for _ in range(12):
        assert hostile.produce(admin, settings.topic(topics.FACTS), 0, raw)[0] == 0
    admin.close()
    consumer = settings.consumer()
    consumer.partitions_for_topic(settings.topic(topics.FACTS))
    consumer.assign([TopicPartition(settings.topic(topics.FACTS), 0)])
    consumer.seek_to_beginning()
    sizes: list[int] = []
    while sum(sizes) < 12 * len(value):
        polled = consumer.poll(timeout_ms=1000)
        sizes.append(sum(len(record.value) for batch in polled.values() for record in batch))
    consumer.close()
    assert max(sizes) <= POLL_BYTES + len(value)
