"""Records that no worker has read when `up` ends: kept, and published again in order."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from schemas.topics import DEAD_LETTERS, FACT_ENCODINGS, FACTS, GENERATION_REQUESTS, MEMORY_HITS
from tests.conftest import wait_until
from tests.runtime.stack.local_up import STAND_IN, WAITS, Up
from workers.kafka import TopicPartition, offsets
from workers.kafka.admin import ensure_topics, ensure_upstream
from workers.kafka.config import KafkaSettings
from workers.kafka.first_offset import HEADER
from workers.runtime import embedded_broker as broker
from workers.runtime.stack import unread

READS = (
    STAND_IN
    + """
from tests.runtime.recorder import Recorder
from workers.kafka.config import KafkaSettings
from workers.runtime import loop
from schemas import topics

class Reader(Recorder):
    name = "NAME"
    topics = TOPICS

def process(worker, batch):
    for record in batch:
        with open(sys.argv[1] + ".read", "ab") as file:
            file.write(record.topic.encode() + b" " + (record.value or b"") + b"\\n")

sys.exit(loop.run(Reader(process), KafkaSettings.from_env(), Path(os.environ["FACTSTREAM_DATA"])))
"""
)
"""A worker that reads everything and writes down what."""


def reader(name: str, *topics: str) -> str:
    return READS.replace("NAME", name).replace("TOPICS", repr(topics))


READERS = {
    "encoder": reader("encoder", FACTS),
    "generator": reader("generator", GENERATION_REQUESTS),
    "writer": reader("writer", FACT_ENCODINGS, MEMORY_HITS, DEAD_LETTERS),
}


@pytest.fixture
def brokers(tmp_path: Path) -> Iterator[Callable[[], KafkaSettings]]:
    started: list[broker.EmbeddedBroker] = []

    def start() -> KafkaSettings:
        started.append(broker.start(broker.free_port(), tmp_path / f"broker-{len(started)}.log"))
        return KafkaSettings(started[-1].bootstrap)

    yield start
    for running in started:
        running.stop()


def records(settings: KafkaSettings, topic: str) -> dict[int, list[tuple[Any, ...]]]:
    """Everything on a topic, by partition: offset, timestamp, key, value, headers."""
    consumer = settings.consumer()
    tps = [TopicPartition(topic, number) for number in range(4)]
    left = sum(offsets.end_offsets(consumer, tps).values())
    consumer.assign(tps)
    consumer.seek_to_beginning()
    found: dict[int, list[tuple[Any, ...]]] = {}
    while left:
        for tp, some in consumer.poll(timeout_ms=100).items():
            left -= len(some)
            found.setdefault(tp.partition, []).extend(
                (r.offset, r.timestamp, r.key, r.value, r.headers) for r in some
            )
    consumer.close(autocommit=False)
    return found


def commit(settings: KafkaSettings, worker: str, topic: str, offset: int) -> None:
    """Commits `offset` on partition 0, as a worker of that name."""
    consumer = settings.consumer(settings.group(worker))
    consumer.assign([TopicPartition(topic, 0)])
    offsets.commit(consumer, {TopicPartition(topic, 0): offset})
    consumer.close(autocommit=False)


def send(settings: KafkaSettings, topic: str, count: int, **more: Any) -> None:
    producer = settings.producer()
    for number in range(count):
        producer.send_to(topic, b"%d" % number, **more)
    producer.flush_or_raise()
    producer.close()


def test_a_request_stays_in_its_partition_where_its_namespace_may_be(
    brokers: Callable[[], KafkaSettings], tmp_path: Path
) -> None:
    """One that was sent on to its namespace once already would be refused anywhere else."""
    settings = brokers()
    ensure_topics(settings)
    for number in range(4):
        send(settings, GENERATION_REQUESTS, 1, key=b"the same", partition=number)
    unread.keep(settings, tmp_path)
    second = brokers()
    ensure_topics(second)
    unread.publish_again(second, tmp_path)
    assert {n: [r[2] for r in own] for n, own in records(second, GENERATION_REQUESTS).items()} == {
        number: [b"the same"] for number in range(4)
    }


def test_what_is_unread_is_published_again_as_it_was(
    brokers: Callable[[], KafkaSettings], tmp_path: Path
) -> None:
    settings = brokers()
    facts_id = ensure_topics(settings)[FACTS]
    producer = settings.producer()
    for number in range(6):
        headers = [("traceparent", b"00-%d" % number), ("empty", b"")]
        producer.send(FACTS, b"fact %d" % number, None, 0, headers, 1_700_000_000_000 + number)
    producer.send(FACTS, b"keyed", b"a key", 3, (), 5)
    producer.send(GENERATION_REQUESTS, b"a prompt", b"id-1")
    producer.send(GENERATION_REQUESTS, None, b"no value")
    producer.flush_or_raise()
    producer.close()
    commit(settings, "encoder", FACTS, 2)
    assert unread.keep(settings, tmp_path) == {FACTS: 5, GENERATION_REQUESTS: 2}

    second = brokers()
    second_id = ensure_topics(second)[FACTS]
    assert unread.publish_again(second, tmp_path) == {FACTS: 5, GENERATION_REQUESTS: 2}
    found = records(second, FACTS)
    assert found[0][:4] == [
        (
            number - 2,
            1_700_000_000_000 + number,
            None,
            b"fact %d" % number,
            [(HEADER, f"{facts_id}/0/{number}".encode()), ("traceparent", b"00-%d" % number), ("empty", b"")],
        )
        for number in range(2, 6)
    ]
    (keyed,) = (record for own in found.values() for record in own if record[2])
    assert keyed[1:] == (5, b"a key", b"keyed", [(HEADER, f"{facts_id}/3/0".encode())])
    asked = records(second, GENERATION_REQUESTS)
    assert sorted((r[2], r[3]) for own in asked.values() for r in own) == [
        (b"id-1", b"a prompt"),
        (b"no value", None),
    ]

    # Again without being read: a fact keeps its first offset, a new one has its own.
    send(second, FACTS, 1, partition=0)
    assert unread.keep(second, tmp_path)[FACTS] == 6
    third = brokers()
    ensure_topics(third)
    unread.publish_again(third, tmp_path)
    firsts = [dict(record[4])[HEADER].decode() for record in records(third, FACTS)[0]]
    first_run = [f"{facts_id}/0/{n}" for n in range(2, 6)] + [f"{facts_id}/3/0"]
    assert firsts == [*first_run, f"{second_id}/0/5"]


def test_a_file_goes_only_when_everything_was_read(
    brokers: Callable[[], KafkaSettings], tmp_path: Path
) -> None:
    settings = brokers()
    ensure_topics(settings)
    send(settings, GENERATION_REQUESTS, 3, partition=0)
    unread.keep(settings, tmp_path)
    assert not unread.remove(settings, tmp_path) and len(unread.files(tmp_path)) == 1
    commit(settings, "generator", GENERATION_REQUESTS, 3)
    assert unread.remove(settings, tmp_path) and unread.files(tmp_path) == []
    assert unread.keep(settings, tmp_path) == {} and unread.files(tmp_path) == []


def test_a_record_that_is_too_large_by_now_becomes_a_dead_letter(
    brokers: Callable[[], KafkaSettings], tmp_path: Path
) -> None:
    settings = brokers()
    ensure_topics(settings)
    value = b"x" * (3 * 1024 * 1024)
    producer = settings.producer()
    producer.send(GENERATION_REQUESTS, value)
    producer.flush_or_raise()
    producer.close()
    unread.keep(settings, tmp_path)
    small = KafkaSettings(brokers().bootstrap, max_record_bytes=4 * 1024 * 1024)
    ensure_topics(small)
    unread.publish_again(small, tmp_path)
    assert records(small, GENERATION_REQUESTS) == {}
    ((letter,),) = records(small, DEAD_LETTERS).values()
    assert letter[3] == value and dict(letter[4])["factstream.reason"] == b"too-large"


def test_topics_of_others_wait_until_somebody_reads_them(
    brokers: Callable[[], KafkaSettings], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = brokers()
    ensure_topics(settings)
    ensure_upstream(settings, ["shop.lamps"])
    send(settings, "shop.lamps", 2, partition=0)
    assert unread.keep(settings, tmp_path, ["shop.lamps"]) == {"shop.lamps": 2}
    second = brokers()
    ensure_topics(second)
    assert unread.publish_again(second, tmp_path) == {}
    assert "not published again" in caplog.text
    unread.keep(second, tmp_path)
    assert unread.remove(second, tmp_path)
    ensure_upstream(second, ["shop.lamps"])
    assert unread.publish_again(second, tmp_path, ["shop.lamps"]) == {"shop.lamps": 2}


def test_unread_facts_and_requests_reach_the_workers_of_the_next_start(
    up: Callable[..., Up], caplog: pytest.LogCaptureFixture
) -> None:
    first = up(dict.fromkeys(READERS, WAITS), drain_s=0.1)
    first.until_ready()
    send(first.settings, FACTS, 40)
    send(first.settings, GENERATION_REQUESTS, 3)
    with caplog.at_level("INFO", "factstream"):
        first.end()
    assert first.error is None and len(unread.files(first.data)) == 2
    kept = next(r.__dict__["fields"] for r in caplog.records if r.getMessage() == "kept for the next start")
    assert kept[FACTS] == 40 and kept[GENERATION_REQUESTS] == 3

    second = up(READERS)
    second.until_ready()
    wait_until(lambda: unread.files(second.data) == [], 60)  # read by all, and removed
    second.end()
    lines = [line for name in READERS for line in read_lines(second.data.parent / f"{name}.starts.read")]
    assert sorted(lines) == sorted(
        [b"facts %d" % n for n in range(40)] + [b"generation-requests %d" % n for n in range(3)]
    )
    assert unread.files(second.data) == [] and second.error is None


def read_lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines() if path.exists() else []


def test_a_killed_supervisor_leaves_what_it_published_again(up: Callable[..., Up]) -> None:
    """The broker ends, and what it was given again is given to the next one, too."""
    first = up({"encoder": WAITS}, drain_s=0.1)
    first.until_ready()
    send(first.settings, FACTS, 5)
    first.end()
    second = up({"encoder": WAITS}, drain_s=0.1, as_json=True)
    second.until_ready()
    os.kill(int(second.said[0].split('"broker": ')[1].split("}")[0]), 9)
    wait_until(lambda: len(second.starts("encoder")) == 3)
    found = records(second.settings, FACTS)
    assert sum(map(len, found.values())) == 5
    second.end()
