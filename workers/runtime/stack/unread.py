"""The records that no worker has read when `up` ends: kept, and published again.

Only the embedded broker loses its topics when it stops. A file of `unread/` has the records of one topic, in their order. It stays until
the workers have read everything, so that no crash loses them; until then they may be published more than once. That doubles nothing: a
fact has its first source offset in a header, and an encoding that of its fact in each row, by which the writer decides each once; uses
are counted once for each request_id, and a request that is answered twice has the same one.
"""

import base64
import gzip
import zlib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime
from itertools import chain, count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import orjson

from pipeline.files import atomic_file
from schemas.topics import FACTS, GENERATION_REQUESTS
from workers.kafka import KafkaAdminClient, KafkaConsumer
from workers.kafka.admin import topic_ids, writable_partitions
from workers.kafka.config import KafkaSettings
from workers.kafka.dead_letters import dead_letter
from workers.kafka.errors import KafkaTimeoutError, RecordTooLarge
from workers.kafka.first_offset import with_first_offset
from workers.kafka.producer import Producer
from workers.observe import log
from workers.runtime.stack.drain import Unread, consumed_topics, count_by_topic, unread

FOLDER = "unread"
SUFFIX, DAMAGED = ".jsonl.gz", ".damaged"
"""JSON Lines: `FORMAT`, then a record a line, its bytes in base64. Gzip has a checksum of the content, and notices a missing end."""
ROUNDS = 3
"""How often at most the files are written again, because records came meanwhile."""
EMPTY_POLLS = 200
"""Polls of 100 ms without a record after which the broker is taken for hung."""
FORMAT = {"format": "factstream-unread-1"}

Row = dict[str, Any]


# --- at the end ---


def keep(settings: KafkaSettings, data: Path, upstream: Sequence[str] = ()) -> dict[str, int]:
    """Write what the groups have not committed, when the workers have ended; a topic that was read to its end has no file.

    Returns how many records of each topic there are. Raises KafkaError, KafkaUnavailable, OSError.
    """
    kept: Unread | None = None
    with closing(settings.admin()) as admin, closing(settings.consumer()) as consumer:
        for _ in range(ROUNDS):
            found = unread(admin, consumer, settings, upstream)
            if found == kept:
                break
            for topic in _topics(settings, upstream):
                if own := {tp: offsets for tp, offsets in found.items() if tp.topic == topic}:
                    _write(_path(data, topic), _read(admin, consumer, settings, own))
                else:
                    _path(data, topic).unlink(missing_ok=True)
            kept = found
    return count_by_topic(settings, kept or {})


def _read(
    admin: KafkaAdminClient, consumer: KafkaConsumer, settings: KafkaSettings, own: Unread
) -> Iterator[Row]:
    """The records of one topic, one partition after another."""
    is_facts = any(settings.short(tp.topic) == FACTS for tp in own)
    facts_id = topic_ids(admin, settings, [FACTS])[FACTS] if is_facts else None
    for tp, (first, end) in own.items():
        consumer.unsubscribe()
        consumer.assign([tp])
        consumer.seek(tp, first)
        empty = 0
        while consumer.position(tp) < end:
            records = consumer.poll(timeout_ms=100).get(tp, [])
            yield from (_row(record, facts_id) for record in records)
            empty = 0 if records else empty + 1
            if empty > EMPTY_POLLS:
                raise KafkaTimeoutError(f"the broker does not give the records of {tp.topic}")


def _row(record: Any, facts_id: str | None) -> Row:
    """`facts_id`: the topic's id for a fact, else None."""
    headers = list(record.headers)
    if facts_id:
        headers = with_first_offset(headers, facts_id, record.partition, record.offset)
    return {
        "partition": record.partition,
        "offset": record.offset,
        "timestamp": max(record.timestamp, 0),  # a producer may write any number there; ours sends none below
        "key": _text(record.key),
        "value": _text(record.value),
        "headers": [(name, _text(value)) for name, value in headers],
    }


def _write(path: Path, rows: Iterable[Row]) -> None:
    """Write a file durably and atomically. Raises OSError."""
    with atomic_file(path) as out, gzip.GzipFile("", "wb", compresslevel=1, fileobj=out, mtime=0) as file:
        for row in chain([FORMAT], rows):
            file.write(orjson.dumps(row) + b"\n")


def _text(content: bytes | None) -> str | None:
    return None if content is None else base64.b64encode(content).decode()


# --- at the start ---


def publish_again(settings: KafkaSettings, data: Path, upstream: Sequence[str] = ()) -> dict[str, int]:
    """Send what was kept to its topics, which exist, in order and with its timestamps, before a worker reads them.

    A damaged file is set aside. The others stay until `remove`. Returns how many records of each topic there are. Raises KafkaError,
    KafkaUnavailable, OSError.
    """
    for rest in (data / FOLDER).glob(".*.tmp"):  # of a process that was killed while it wrote
        rest.unlink()
    read, published = _topics(settings, upstream), dict[str, int]()
    for path in files(data):
        topic = path.name.removesuffix(SUFFIX)
        if topic not in read:
            reason = "no worker of this stack reads its topic"
            log.line("not published again", log.WARNING, file=str(path), reason=reason)
        elif _is_readable(path):
            published[settings.short(topic)] = _publish(settings, topic, path)
    return published


def remove(settings: KafkaSettings, data: Path, upstream: Sequence[str] = ()) -> bool:
    """Remove what was published again, if the workers have read everything. Returns whether they have.

    Raises KafkaError, KafkaUnavailable, OSError.
    """
    with closing(settings.admin()) as admin, closing(settings.consumer()) as consumer:
        if unread(admin, consumer, settings, upstream):
            return False
    for topic in _topics(settings, upstream):
        _path(data, topic).unlink(missing_ok=True)
    return True


def _is_readable(path: Path) -> bool:
    """Whether a file is whole; otherwise it gets another name. Raises OSError."""
    try:
        deque(_rows(path), 0)
        return True
    except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError) as error:
        if isinstance(error, OSError) and error.errno:  # of the disk, not of the content
            raise
        names = (path.with_name(f"{path.name}{DAMAGED}-{n}") for n in count(1))
        aside = next(name for name in names if not name.exists())
        path.rename(aside)
        reason = f"{path.name} is damaged ({str(error)[:200]}): its records are not published again"
        log.line("not published again", log.ERROR, file=str(aside), reason=reason)
        return False


def _rows(path: Path) -> Iterator[Row]:
    with gzip.open(path) as file:
        if orjson.loads(file.readline()) != FORMAT:
            raise ValueError(f"another format than {FORMAT['format']}")
        for line in file:
            row = orjson.loads(line)
            yield {
                **{name: int(row[name]) for name in ("partition", "offset", "timestamp")},
                **{name: _content(row[name]) for name in ("key", "value")},
                "headers": [(str(name), _content(value)) for name, value in row["headers"]],
            }


def _content(text: str | None) -> bytes | None:
    return None if text is None else base64.b64decode(text, validate=True)


def _publish(settings: KafkaSettings, topic: str, path: Path) -> int:
    """A record goes to the partition of its key, or to the one that it was on: so does a request, whose key is not its namespace."""
    is_keyed = settings.short(topic) != GENERATION_REQUESTS
    with closing(settings.admin()) as admin, closing(settings.producer()) as producer:
        partitions = writable_partitions(admin, topic)
        for row in _rows(path):
            _send(producer, topic, partitions, row, is_keyed and row["key"] is not None)
        return len(producer.flush_or_raise())


def _send(producer: Producer, topic: str, partitions: int, row: Row, is_keyed: bool) -> None:
    key, value, headers = row["key"], row["value"], row["headers"]
    partition = None if is_keyed else row["partition"] % partitions
    if key is None and value is None:
        value = b""  # the client sends no record that has neither
    try:
        producer.send_to(topic, value, key, partition, headers, row["timestamp"])
    except RecordTooLarge as error:
        record = SimpleNamespace(
            topic=topic, partition=row["partition"] % partitions, offset=row["offset"],
            key=key, value=value, headers=headers,
        )  # fmt: skip
        dead_letter(producer, record, "too-large", str(error), "up", datetime.now(UTC))


# --- both ---


def files(data: Path) -> list[Path]:
    """The files that wait to be published again."""
    return sorted((data / FOLDER).glob(f"*{SUFFIX}"))


def damaged(data: Path) -> list[Path]:
    """The files that were set aside."""
    return sorted((data / FOLDER).glob(f"*{SUFFIX}{DAMAGED}*"))


def _topics(settings: KafkaSettings, upstream: Sequence[str]) -> list[str]:
    return [topic for topics in consumed_topics(settings, upstream).values() for topic in topics]


def _path(data: Path, topic: str) -> Path:
    return data / FOLDER / f"{topic}{SUFFIX}"
