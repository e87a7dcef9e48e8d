"""What a hostile producer sends: broken record batches, and bad messages for every consumed topic.

All of it is drawn from a `random.Random` that is passed in, so that a run can be repeated.
"""

import gzip
import json
import random
import struct
import time
from collections.abc import Callable
from typing import Any

import lz4.frame
import pyarrow as pa
import zstandard
from kafka import KafkaAdminClient, TopicPartition
from kafka.errors import NotLeaderForPartitionError
from kafka.protocol.producer import ProduceRequest
from kafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder
from kafka.record.util import calc_crc32c, encode_varint

from schemas import topics
from schemas.encoding import FACT_ENCODINGS, encode_batch

CONSUMED = (
    topics.FACTS, topics.FACT_ENCODINGS, topics.MEMORY_HITS, topics.MEMORY_CHANGELOG, topics.GENERATION_REQUESTS,
    topics.DEAD_LETTERS,
)  # fmt: skip
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
    packed: bytes, codec: int = 0, count: int = 1, crc: int | None = None, magic: int = 2, offset: int = 0,
    producer: int = -1,
) -> bytes:  # fmt: skip
    """A record batch around `packed`, whose header says what one likes."""
    at = DefaultRecordBatch.ATTRIBUTES_OFFSET
    when = 1_700_000_000_000
    tail = struct.pack(">hiqqqhii", codec, max(count, 1) - 1, when, when, producer, -1, -1, count) + packed
    head = struct.pack(">qiib", offset, len(tail) + at - 12, 0, magic)
    return head + struct.pack(">I", calc_crc32c(tail) if crc is None else crc) + tail


def produce(admin: KafkaAdminClient, topic: str, partition: int, raw: bytes) -> tuple[int, int]:
    """Sends a batch as it stands; the broker's error code, 0 where it took it, and the offset it gave."""
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

    while True:
        response = admin._manager.run(send)
        result = response.responses[0].partition_responses[0]
        if result.error_code != NotLeaderForPartitionError.errno or time.monotonic() > deadline:
            return int(result.error_code), int(result.base_offset)
        time.sleep(0.05)  # the leader of a new topic does not know yet that it is


def bomb(size: int) -> bytes:
    """A batch of a few KB whose one record has a value of `size` zeros, packed with zstd."""
    head = bytearray(b"\x00\x00\x00")  # attributes, time, offset
    encode_varint(-1, head.append)
    encode_varint(size, head.append)
    length = bytearray()
    encode_varint(len(head) + size + 1, length.append)
    packer = zstandard.ZstdCompressor().compressobj()
    zeros, parts = bytes(1 << 20), [packer.compress(bytes(length + head))]
    for at in range(0, size, len(zeros)):
        parts.append(packer.compress(zeros[: size - at]))
    parts += [packer.compress(b"\x00"), packer.flush()]
    return batch(b"".join(parts), 4)


# --- messages ---

WHEN = "2026-01-02T00:00:00Z"
ID = "a" * 32
GOOD: dict[str, dict[str, Any]] = {
    topics.FACTS: {"text": "The lamp is made of walnut.", "category": "c", "source": "s", "fact_id": "f", "observed_at": WHEN,
    "min_loss_delta": 0.1, "key": "k", "cardinality": "many", "metadata": {"page": 1}, "valid_until": WHEN},
    topics.MEMORY_HITS: {"namespace": "default", "request_id": "r", "answered_at": WHEN, "hits": [{"memory_id": ID, "gate": 0.5}]},
    topics.GENERATION_REQUESTS: {"prompt": "The lamp is", "max_new_tokens": 2, "temperature": 0.5, "top_p": 0.9, "seed": 1,
    "stop": ["."], "use_memory": True, "stream": False, "after": {"default": {"x/0": 1}}, "deadline": WHEN},
    topics.MEMORY_CHANGELOG: {"memory_id": ID, "namespace": "default", "text": "one", "observed_at": WHEN, "learned_at": WHEN,
    "importance": 1.0, "loss_delta": 1.0, "encoder_id": "e", "priors": "AAAAAA==", "surprisals": "AAAAAA==", "vectors": "AA=="},
}  # fmt: skip
"""A body of each JSON topic, as it should be."""
TEXTS = ["\x00", "\x1b[2J", "\ud800", "a\x7f", "x" * 9000, ""]
KEYS = {
    topics.FACTS: b"default", topics.MEMORY_HITS: b"default", topics.GENERATION_REQUESTS: b"r-1",
    topics.MEMORY_CHANGELOG: f"default/{ID}".encode(), topics.FACT_ENCODINGS: b"default", topics.DEAD_LETTERS: b"default",
}  # fmt: skip
WRONG: list[Any] = [
    None, True, -1, 1e300, 2**70, "", "\x00", "\x1b[2J", "\ud800", "a\x7f", [], {}, [[]], {"a": {}}, "x" * 9000,
    [1, "2", None], "1/0", "' OR 1=1 --", "../../etc/passwd", "\u202e" * 9000,
]  # fmt: skip


def message(dice: random.Random, topic: str) -> tuple[bytes | None, bytes | None]:
    """(key, value) of a record that the topic's consumer must refuse."""
    if topic == topics.DEAD_LETTERS:  # without the headers of a worker's letter, whatever it says
        return KEYS[topic], dice.randbytes(dice.randint(0, 2000))
    makers = [_noise, _noise, _deep, _large, _broken_json] + (
        [_arrow] * 8 if topic == topics.FACT_ENCODINGS else [_field] * 8
    )
    key, value = dice.choice(makers)(dice, topic)
    if value is None and topic == topics.MEMORY_CHANGELOG:  # that would be a tombstone
        value = b""
    return key, value


def _noise(dice: random.Random, topic: str) -> tuple[bytes | None, bytes | None]:
    value = dice.choice(
        [None, b"", b"null", b"7", b"[]", b'"text"', b"\xff\xfe{}", dice.randbytes(dice.randint(1, 2000))]
    )
    return KEYS[topic], value


def _deep(dice: random.Random, topic: str) -> tuple[bytes | None, bytes | None]:
    depth = dice.randint(1_000, 40_000)
    opened, closed = dice.choice([(b"[", b"]"), (b'{"a":', b"}"), (b'{"text":[', b"]}")])
    return KEYS[topic], opened * depth + b"1" + closed * depth * dice.randint(0, 1)


def _large(dice: random.Random, topic: str) -> tuple[bytes | None, bytes | None]:
    size = dice.choice([300_000] * 40 + [7 << 20])
    return KEYS[topic], dice.choice([b" ", b"[", b"\x00", b"\xff"]) * size


def _broken_json(dice: random.Random, topic: str) -> tuple[bytes | None, bytes | None]:
    value = json.dumps(GOOD.get(topic, {"a": 1})).encode()
    broken = [
        value[: dice.randrange(len(value))], value + b"}", value.replace(b'"', b"'"), value * 2,
        value.replace(b":", b":NaN,", 1), value.replace(b"{", b'{"\x01":1,', 1), b"\xfe\xff" + value,
    ]  # fmt: skip
    return KEYS[topic], dice.choice(broken)


def _field(dice: random.Random, topic: str) -> tuple[bytes | None, bytes | None]:
    """A good body with one thing wrong: a field's value, a field too many, or the key."""
    body: dict[str, Any] = dict(GOOD[topic])
    name, chance = dice.choice(sorted(body)), dice.random()
    if chance < 0.2 and topic != topics.FACTS:  # where a field too many is left out
        body[dice.choice(["texts", "__proto__", "Text", "x" * 5000, "\x00", "namespace "])] = dice.choice(
            WRONG
        )
    elif chance < 0.4 and topic != topics.GENERATION_REQUESTS:  # which takes any key
        keys = [b"\xff", b"a" * 200, b"\x00", b"default\n", b"\xc2\x85"]  # no namespaces
        key = dice.choice(keys + ([b"-x", b"../x", b"a b", b"/"] if topic != topics.FACTS else []))
        return key, json.dumps(body).encode()
    elif chance < 0.6 and topic == topics.FACTS:
        body[dice.choice(["text", "category", "source", "fact_id"])] = dice.choice(TEXTS)
    else:
        body[name] = [[dice.choice(WRONG)]]  # which no field takes
    return KEYS[topic], json.dumps(body).encode()


def _row(**more: Any) -> dict[str, Any]:
    return {
        "kind": "fact", "topic_id": "t", "partition": 0, "offset": 1, "namespace": "default", "text": "a b",
        "observed_at": 0, "published_at": 0, "encoder_id": "e", "base_loss": 2.0, "recall_loss": 0.5, "loss_delta": 1.5,
        "priors": [1.0, 2.0], "surprisals": [1.0, 2.0], "vectors": b"\x00\x01",
    } | more  # fmt: skip


def _arrow(dice: random.Random, topic: str) -> tuple[bytes | None, bytes | None]:
    good = pa.RecordBatch.from_pylist([_row()], schema=FACT_ENCODINGS)
    value = encode_batch(good)
    kind = dice.randrange(6)
    if kind == 0:
        return KEYS[topic], value[: dice.randrange(len(value) - 16)]
    if kind == 1:  # a body that says it is larger than it is
        at = dice.randrange(0, len(value) - 8, 4)
        value = value[:at] + b"\xff\xff\xff\x7f" + value[at + 4 :]
        return KEYS[topic], value[: len(value) - 200]
    if kind == 2:
        sink = pa.BufferOutputStream()
        options = pa.ipc.IpcWriteOptions(compression=dice.choice(["zstd", "lz4"]))
        big = pa.RecordBatch.from_pylist(
            [_row(vectors=bytes(dice.choice([1, 10**5, 10**7])))], schema=FACT_ENCODINGS
        )
        with pa.ipc.new_stream(sink, FACT_ENCODINGS, options=options) as writer:
            writer.write_batch(big)
        return KEYS[topic], bytes(sink.getvalue())
    if kind == 3:
        table = pa.table({dice.choice(["text", "vectors", ""]): [b"a" * dice.randint(0, 999)]})
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        return KEYS[topic], bytes(sink.getvalue())
    wrong: dict[str, Any] = dice.choice([
        {"kind": "erase all"}, {"namespace": "a\x07"}, {"text": "\x00"}, {"text": " "}, {"base_loss": float("nan")},
        {"priors": []}, {"priors": [float("inf"), 1.0]}, {"vectors": b"123"}, {"offset": -1}, {"partition": -2**31},
        {"topic_id": "a/b"}, {"encoder_id": ""}, {"kind": "forget", "forget": "' OR 1=1"}, {"kind": "erase_key"}, {"metadata": "[" * 9}, {"cardinality": "all"}, {"fact_id": "\x1b"},
        {"observed_at": 2**62}, {"min_loss_delta": float("inf")}, {"vectors": bytes(5 << 20)},
    ])  # fmt: skip
    rows = [_row(), _row(**wrong)] if kind == 4 else [_row(**wrong)]
    return KEYS[topic], encode_batch(pa.RecordBatch.from_pylist(rows, schema=FACT_ENCODINGS))
