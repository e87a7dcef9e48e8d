"""What a hostile producer sends: record batches that no client library would make, and messages for every consumed topic.

All of it is drawn from a `random.Random` that is passed in, so that a run can be repeated.
"""

import gzip
import struct
import time
from collections.abc import Callable
from typing import Any

import lz4.frame
import pyarrow as pa
import zstandard
from kafka import KafkaAdminClient, TopicPartition
from kafka.protocol.producer import ProduceRequest
from kafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder
from kafka.record.util import calc_crc32c

CODECS: dict[str, tuple[int, Callable[[bytes], bytes]]] = {
    "none": (0, bytes),
    "gzip": (1, gzip.compress),
    "snappy": (2, lambda data: bytes(pa.compress(data, codec="snappy", asbytes=True))),
    "xerial": (2, lambda data: xerial(data)),
    "lz4": (3, lz4.frame.compress),
    "zstd": (4, zstandard.compress),
}


def xerial(data: bytes, size: int = 32 * 1024) -> bytes:
    """Snappy as the Java client has it: a header, then blocks with their lengths."""
    packed = b"\x82SNAPPY\x00" + struct.pack(">ii", 1, 1)
    for at in range(0, len(data), size):
        block = pa.compress(data[at : at + size], codec="snappy", asbytes=True)
        packed += struct.pack(">i", len(block)) + block
    return packed


def records(*pairs: tuple[bytes | None, bytes | None], headers: Any = ()) -> bytes:
    """The records (key, value) as they stand in a batch that is not packed."""
    builder = DefaultRecordBatchBuilder(2, 0, False, -1, -1, -1, 1 << 30)
    for offset, (key, value) in enumerate(pairs):
        builder.append(offset, 1_700_000_000_000, key, value, list(headers))
    return bytes(builder.build()[DefaultRecordBatch.HEADER_STRUCT.size :])


def batch(
    packed: bytes, codec: int = 0, count: int = 1, crc: int | None = None, magic: int = 2, offset: int = 0
) -> bytes:
    """A record batch around `packed`, whose header says what one likes."""
    at = DefaultRecordBatch.ATTRIBUTES_OFFSET
    when = 1_700_000_000_000
    tail = struct.pack(">hiqqqhii", codec, max(count, 1) - 1, when, when, -1, -1, -1, count) + packed
    head = struct.pack(">qiib", offset, len(tail) + at - 12, 0, magic)
    return head + struct.pack(">I", calc_crc32c(tail) if crc is None else crc) + tail


def produce(admin: KafkaAdminClient, topic: str, partition: int, raw: bytes) -> int:
    """Sends a batch as it stands; the broker's error code, 0 where it took it."""
    cluster = admin._manager.cluster
    cluster.set_topics([topic])
    deadline = time.monotonic() + 10
    while (leader := cluster.leader_for_partition(TopicPartition(topic, partition))) is None or leader < 0:
        assert time.monotonic() < deadline, f"{topic} has no leader"
        time.sleep(0.05)
    part = ProduceRequest.TopicProduceData.PartitionProduceData(index=partition, records=raw)
    body = ProduceRequest(
        transactional_id=None, acks=-1, timeout_ms=10_000,
        topic_data=[ProduceRequest.TopicProduceData(name=topic, partition_data=[part])], min_version=3, max_version=9,
    )  # fmt: skip

    async def send() -> Any:
        return await admin._manager.send(body, node_id=leader)

    response = admin._manager.run(send)
    return int(response.responses[0].partition_responses[0].error_code)
