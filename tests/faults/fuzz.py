"""A coverage-guided fuzzer (atheris, that is libFuzzer) of six decoders and of record batches.

Whatever comes is taken, or refused with BadMessage; a batch that cannot be read is one record. Anything else is a
finding: libFuzzer prints the trace, and writes the input to a file that it names.

    make fuzz                                            a minute for each target
    python -m tests.faults.fuzz facts -runs=100000              one target, with libFuzzer's own options
    python -m tests.faults.fuzz facts crash-4f0c…               a finding, once more
"""

import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

Decoder = Callable[[bytes | None, bytes | None], object]
BATCHES = "record-batches"


def decoders() -> dict[str, Decoder]:
    """By topic, the decoder of (key, value) that a worker uses. Each raises BadMessage."""
    from pipeline.memory.codec import memory_from_record
    from schemas import topics
    from schemas.changelog import MemoryRecord, decode_changelog
    from schemas.common import BadMessage, decode
    from schemas.dead_letter import HEADERS, decode_headers
    from schemas.fact import decode_fact
    from schemas.hits import MemoryHits
    from schemas.request import decode_request
    from workers.write.validate import decode_events

    def taken(key: bytes | None, value: bytes | None) -> None:
        record = decode_changelog(key, value)
        if isinstance(record, MemoryRecord):
            memory_from_record(record)

    def hits(key: bytes | None, value: bytes | None) -> None:
        """As the writer, which holds the key against the body."""
        if decode(MemoryHits, value).namespace.encode() != key:
            raise BadMessage("key-mismatch", "")

    return {
        topics.FACTS: decode_fact,
        topics.FACT_ENCODINGS: lambda key, value: decode_events(value),
        topics.MEMORY_HITS: hits,
        topics.MEMORY_CHANGELOG: taken,
        topics.GENERATION_REQUESTS: lambda key, value: decode_request(value),
        # The worker's headers, a line each.
        topics.DEAD_LETTERS: lambda key, value: decode_headers(
            zip(HEADERS, [key, *(value or b"").split(b"\n")], strict=False)
        ),
    }


def target(name: str) -> Callable[[bytes], None]:
    if name == BATCHES:
        return _read
    from schemas.common import BadMessage

    decode = decoders()[name]

    def one(data: bytes) -> None:
        key, _, value = data.partition(b"\n")  # so that libFuzzer's own mutations reach either
        with suppress(BadMessage):
            decode(key, value)

    return one


def _read(data: bytes) -> None:
    """The records behind a batch's header that says what `data` begins with: codec, then how many they are."""
    from kafka import TopicPartition
    from kafka.record.memory_records import MemoryRecords

    from tests.helpers import hostile
    from workers.kafka.consumer import _PartitionRecords

    raw = hostile.batch(data[2:], data[0] % 8 if data else 0, data[1] if len(data) > 1 else 1)
    records = _PartitionRecords(0, TopicPartition("facts", 0), MemoryRecords(raw)).take(1_000)
    assert all(record.value is None or len(record.value) <= 1 << 25 for record in records)


def seeds(name: str) -> list[bytes]:
    """Inputs that get far, from which the fuzzer makes others."""
    import json
    import random

    from schemas import topics
    from tests.helpers import hostile

    if name == topics.DEAD_LETTERS:
        return [b"facts\n3\n17\ninvalid-json\nno JSON\nencoder\n2026-01-02T00:00:00+00:00"]
    if name == BATCHES:
        pair = (b"ada", b'{"text":"one"}')
        return [bytes([codec, 1]) + pack(hostile.records(pair)) for codec, pack in hostile.CODECS.values()]
    dice = random.Random(1)
    messages = [hostile.message(dice, name) for _ in range(40)]
    if name in hostile.GOOD:
        messages.append((hostile.KEYS[name], json.dumps(hostile.GOOD[name]).encode()))
    return [(key or b"") + b"\n" + (value or b"")[:4096] for key, value in messages]


def main() -> None:
    import atheris

    name = sys.argv[1] if len(sys.argv) > 1 else "-"
    with atheris.instrument_imports(include=["schemas", "pipeline", "workers"]):
        names = [*decoders(), BATCHES]
        if name not in names:
            sys.exit(
                f"{Path(__file__).name} TARGET [-runs=N] [libFuzzer's options]; a target is one of {', '.join(names)}"
            )
        one = target(name)
        _read(b"")
    options: list[Any] = sys.argv[2:]
    with tempfile.TemporaryDirectory(prefix="factstream-fuzz-") as folder:
        if all(option.startswith("-") for option in options):  # else a finding is looked at
            for number, seed in enumerate(seeds(name)):
                (Path(folder) / str(number)).write_bytes(seed)
            options = [folder, "-max_len=8192", "-timeout=10", "-rss_limit_mb=2048", *options]
        atheris.Setup([sys.argv[0], *options], one)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
