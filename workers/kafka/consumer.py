"""Decoder of fetched record batches under a size limit; an unreadable batch becomes one record.

It reads Kafka's record batch (message format v2, KIP-98) and its four codecs. The client by itself unpacks a batch
of any size, stops at the first one that it cannot read, and has no snappy. Here a batch unpacks to at most
`MAX_UNPACKED` bytes, a poll returns about `POLL_BYTES`, and a batch that cannot be read becomes one `Unreadable`
record with the batch's own bytes: workers send it to the dead letters and go on. Records of aborted transactions
are left out, where the consumer asked for committed ones only.
"""

import gzip
import io
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import zstandard
from kafka import KafkaConsumer
from kafka.consumer.fetcher import ConsumerRecord, Fetcher
from kafka.protocol.consumer.offsets import IsolationLevel
from kafka.record.default_records import DefaultRecordBatch
from kafka.record.util import decode_varint
from lz4.frame import LZ4FrameFile

from schemas.common import BadMessage

MAX_UNPACKED = 17 * 1024 * 1024
"""Bytes that a batch may unpack to: the largest record that any topic takes, and its framing."""
POLL_BYTES = 32 * 1024 * 1024
"""Bytes of keys, values and headers after which a poll returns."""
MAX_HEADERS = 64
"""Headers of a record that are read."""
MAX_WINDOW = 1 << 24
"""Largest window of a zstd frame, in bytes; Kafka's levels up to 19 need half of it."""
_XERIAL = b"\x82SNAPPY\x00"


class Unreadable(ConsumerRecord):  # type: ignore[misc]
    """A batch, or the rest of one, that cannot be read. `value` is the whole batch as the broker has it."""

    error = ""


def limit_decoding(consumer: KafkaConsumer) -> KafkaConsumer:
    """Make a new consumer decode with this file's limits. Returns it."""
    fetcher = consumer._fetcher
    fetcher.__class__ = _Fetcher
    fetcher.share = max(1, POLL_BYTES // fetcher.config["max_poll_records"])
    return consumer


def check_readable(record: Any) -> None:
    """Raises BadMessage for an `Unreadable`."""
    if isinstance(record, Unreadable):
        raise BadMessage("unreadable-batch", record.error)


def unpack(codec: int, data: bytes) -> bytes:
    """The unpacked records of a batch. Raises ValueError if they are too large, and the codec's own errors."""
    if codec == DefaultRecordBatch.CODEC_NONE:
        return data
    if codec == DefaultRecordBatch.CODEC_SNAPPY:
        return _unsnap(data)
    if codec not in _STREAMS:
        raise ValueError(f"codec {codec} is unknown")
    with _STREAMS[codec](io.BytesIO(data)) as stream:
        parts, room = [], MAX_UNPACKED + 1
        while room > 0 and (part := stream.read(min(room, 1 << 20))):
            parts.append(part)
            room -= len(part)
    if room <= 0:
        raise ValueError(f"it unpacks to more than {MAX_UNPACKED} bytes")
    return b"".join(parts)


_STREAMS: dict[int, Callable[[io.BytesIO], Any]] = {
    DefaultRecordBatch.CODEC_GZIP: lambda data: gzip.GzipFile(fileobj=data),
    DefaultRecordBatch.CODEC_LZ4: LZ4FrameFile,
    DefaultRecordBatch.CODEC_ZSTD: lambda data: zstandard.ZstdDecompressor(
        max_window_size=MAX_WINDOW
    ).stream_reader(data, read_across_frames=True),
}


def _unsnap(data: bytes) -> bytes:
    """Unpack snappy, in the Java client's blocks (xerial) or as one block. Each block begins with its unpacked size."""
    blocks = [data]
    if data.startswith(_XERIAL):
        blocks, at = [], 16
        while at < len(data):
            size = int.from_bytes(data[at : at + 4], "big", signed=True)
            if size <= 0 or at + 4 + size > len(data):
                raise ValueError("a snappy block ends outside of the batch")
            blocks.append(data[at + 4 : at + 4 + size])
            at += 4 + size
    parts, room = [], MAX_UNPACKED
    for block in blocks:
        size = shift = 0
        for byte in block[:5]:
            size |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        if (room := room - size) < 0:
            raise ValueError(f"it unpacks to more than {MAX_UNPACKED} bytes")
        parts.append(pa.decompress(block, size, codec="snappy", asbytes=True))
    return b"".join(parts)


class _PartitionRecords(Fetcher.PartitionRecords):  # type: ignore[misc]
    """The client's reader of one partition in a fetch, with its two unbounded steps replaced."""

    share = 1

    def take(self, n: int) -> list[Any]:
        """The next records, until they cost `n`: see `_cost`."""
        records: list[Any] = []
        while n > 0 and self.record_iterator is not None:
            if (record := next(self.record_iterator, None)) is None:
                break
            records.append(record)
            n -= _cost(record, self.share)
        return records

    def _unpack_records(self, tp: Any, records: Any, *_: object) -> Iterator[Any]:
        while (batch := records.next_batch()) is not None:
            raw, last = bytes(batch._buffer), batch.base_offset
            try:
                if batch.magic != 2:
                    raise ValueError(f"message format v{batch.magic}; only v2 is read")
                last = max(last, batch.last_offset)
                if not batch.validate_crc():
                    raise ValueError("its checksum is wrong")
                self.leader_epoch = batch.leader_epoch
                if not self._is_left_out(batch):
                    for record in _records(tp, batch, raw):
                        self.next_fetch_offset = record.offset + 1
                        yield record
            except Exception as error:  # six libraries decode here: none of their errors may end a worker
                if last >= self.fetch_offset:
                    self.next_fetch_offset = last + 1
                    bad = _new_record(Unreadable, tp, batch, last, 0, None, raw, [])
                    bad.error = f"a record batch that cannot be read: {type(error).__name__}: {error}"
                    yield bad
            # A compacted batch keeps the offset of its last record, which may be gone.
            self.next_fetch_offset = max(self.next_fetch_offset, last + 1)
        self.drain()

    def _is_left_out(self, batch: DefaultRecordBatch) -> bool:
        """Whether a batch ends a transaction, or is part of one in the broker's list of those that were aborted."""
        if self.isolation_level == IsolationLevel.READ_COMMITTED and batch.has_producer_id():
            self._consume_aborted_transactions_up_to(batch.last_offset)
            if batch.is_control_batch:
                self.aborted_producer_ids.discard(batch.producer_id)
        return bool(batch.is_control_batch or self._is_batch_aborted(batch))


def _records(tp: Any, batch: DefaultRecordBatch, raw: bytes) -> Iterator[Any]:
    """The records of a batch, each with its first `MAX_HEADERS` headers."""
    data, at = unpack(batch.compression_type, raw[DefaultRecordBatch.HEADER_STRUCT.size :]), 0
    for _ in range(batch.records_count):
        size, at = decode_varint(data, at)
        end = at + size
        if size < 0 or end > len(data):
            raise ValueError("a record ends outside of its batch")
        timestamp_delta, at = decode_varint(data, at + 1)  # after the attributes, which are unused
        offset_delta, at = decode_varint(data, at)
        if not 0 <= offset_delta <= batch.last_offset_delta:
            raise ValueError("a record's offset lies outside of its batch")
        key, at = _field(data, at, end)
        value, at = _field(data, at, end)
        count, at = decode_varint(data, at)
        headers = []
        for _ in range(min(count, MAX_HEADERS)):
            name, at = _field(data, at, end)
            content, at = _field(data, at, end)
            headers.append(((name or b"").decode("utf-8", "replace"), content))
        time = batch.max_timestamp if batch.timestamp_type else batch.first_timestamp + timestamp_delta
        offset = batch.base_offset + offset_delta
        yield _new_record(ConsumerRecord, tp, batch, offset, time, key, value, headers)
        at = end
    if at != len(data):
        raise ValueError("there are bytes after the last record")


def _field(data: bytes, at: int, end: int) -> tuple[bytes | None, int]:
    size, at = decode_varint(data, at)
    if at + size > end:
        raise ValueError("a field ends outside of its record")
    return (None, at) if size < 0 else (data[at : at + size], at + size)


def _new_record(
    kind: Any,
    tp: Any,
    batch: Any,
    offset: int,
    time: int,
    key: bytes | None,
    value: bytes | None,
    headers: Any,
) -> Any:
    return kind(
        tp.topic, tp.partition, getattr(batch, "leader_epoch", -1), offset, time, 0, key, value, headers, None,
        len(key or b""), len(value or b""), -1,
    )  # fmt: skip


def _cost(record: Any, share: int) -> int:
    """How many records of a poll this one counts as, by its size: one for each `share` bytes that it begins."""
    size = len(record.key or b"") + len(record.value or b"")
    size += sum(len(name) + len(value or b"") for name, value in record.headers)
    return 1 + size // share


class _Fetcher(Fetcher):  # type: ignore[misc]
    """The client's fetcher, whose polls are limited by size as well as by number."""

    share: int

    def PartitionRecords(self, *args: Any, **kwargs: Any) -> _PartitionRecords:
        reader = _PartitionRecords(*args, **kwargs)
        reader.share = self.share
        return reader

    def _append(self, drained: Any, part: Any, max_records: int, update_offsets: bool) -> int:
        count: int = super()._append(drained, part, max_records, update_offsets)
        taken = drained[part.topic_partition][-count:] if count else []
        return sum(_cost(record, self.share) for record in taken)
