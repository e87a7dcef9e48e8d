"""The writer: each fact is decided once, and the changelog says what the history says."""

import threading
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from kafka import OffsetAndMetadata, TopicPartition
from kafka.errors import KafkaTimeoutError

from pipeline.history import layout
from pipeline.history import log as history
from schemas import topics
from schemas.changelog import PositionRecord
from schemas.common import decode
from schemas.dead_letter import PREFIX
from tests.conftest import wait_until
from tests.write.local_writer import (
    HOME,
    NOW,
    OUTCOMES,
    TEXTS,
    Local,
    agree,
    batch,
    begin,
    decided,
    facts,
    message,
    row,
    take,
    writer,
)
from workers.kafka.admin import ensure_topics
from workers.kafka.config import KafkaSettings
from workers.kafka.partitioner import partition_for
from workers.runtime import loop
from workers.runtime.signals import Stop
from workers.runtime.worker import Retry
from workers.write.partition import load
from workers.write.worker import WriterWorker


def test_a_batch_becomes_one_file_and_its_changelog_records(tmp_path: Path) -> None:
    worker, sent = writer(tmp_path)
    worker.process(facts())
    assert [d.outcome for d in decided(tmp_path)] == OUTCOMES
    assert layout.last_version(tmp_path, HOME) == 0
    agree(sent, tmp_path)
    position = decode(PositionRecord, sent.compacted()[b"default/"])
    assert [(d.offset, d.outcome) for d in position.decided] == list(enumerate(OUTCOMES))
    assert {record.partition for record in sent.on(topics.MEMORY_CHANGELOG)} == {HOME}


def test_facts_that_are_delivered_again_are_not_decided_again(tmp_path: Path) -> None:
    worker, _ = writer(tmp_path)
    worker.process(facts())
    digest = load(tmp_path, HOME, worker._bank_settings).bank.digest()
    worker.process(facts())  # by the same writer
    other, _ = writer(tmp_path)
    other.process(facts())  # and by one that starts anew
    twice = message(row(3, TEXTS[3]), row(4, "Ines Okafor keeps the rota."))
    other.process(batch(twice, message(row(4, "Not this one.")), start=4))
    assert [d.cause.offset for d in decided(tmp_path)] == [0, 1, 2, 3, 4]
    held = other._held[HOME].bank
    assert held.digest() == load(tmp_path, HOME, worker._bank_settings).bank.digest() != digest


def test_the_next_writer_publishes_what_a_crashed_one_appended(tmp_path: Path) -> None:
    worker, sent = writer(tmp_path)
    worker.process(batch(message(row(0, TEXTS[0]))))
    before = sent.compacted()
    sent.failures = 1
    with pytest.raises(KafkaTimeoutError):
        worker.process(batch(message(row(1, TEXTS[2])), start=1))
    assert [d.outcome for d in decided(tmp_path)] == ["learned", "superseded"]  # it is in the history
    assert sent.compacted() == before  # and it is not published
    _, recovered = writer(tmp_path, worker._settings)  # type: ignore[arg-type]
    agree(recovered, tmp_path)


def test_a_failed_flush_is_recovered_by_the_same_writer(tmp_path: Path) -> None:
    worker, sent = writer(tmp_path)
    sent.failures = 2
    with pytest.raises(KafkaTimeoutError):
        worker.process(facts())
    with pytest.raises(KafkaTimeoutError):
        take(worker)  # as the loop does after a failure, and it fails again
    take(worker)
    worker.process(facts())
    assert [d.outcome for d in decided(tmp_path)] == OUTCOMES
    agree(sent, tmp_path)


def test_the_later_of_two_writers_folds_what_the_other_appended(tmp_path: Path) -> None:
    late, sent = writer(tmp_path)
    other, _ = writer(tmp_path, late._settings)  # type: ignore[arg-type]
    other.process(batch(message(row(0, TEXTS[0]))))
    with pytest.raises(Retry):
        late.process(facts())
    take(late)
    late.process(facts())
    assert [d.outcome for d in decided(tmp_path)] == OUTCOMES
    assert [d.cause.offset for d in decided(tmp_path)] == [0, 1, 2, 3]
    agree(sent, tmp_path)


def test_an_unchanged_partition_is_not_folded_again(tmp_path: Path) -> None:
    worker, sent = writer(tmp_path)
    worker.process(facts())
    count, held = len(sent.records), worker._held[HOME]
    take(worker)
    assert worker._held[HOME] is held and len(sent.records) == count


@pytest.mark.parametrize("wrote", [False, True])
def test_a_partition_loaded_early_is_used_unless_another_writer_appended(tmp_path: Path, wrote: bool) -> None:
    other, _ = writer(tmp_path)
    other.process(facts())
    worker = WriterWorker(Local(), tmp_path, now=lambda: NOW)
    worker.load(alone=False)
    assert not worker._loaded  # the partitions of others are theirs
    worker.load(alone=True)
    folded = worker._loaded[HOME]
    if wrote:
        other.process(batch(message(row(9, "Ines Okafor keeps the rota.")), start=9))
    sent = begin(worker)
    assert (worker._held[HOME] is folded) != wrote and not worker._loaded
    agree(sent, tmp_path)


def test_uses_are_counted_once_and_only_on_the_namespaces_partition(tmp_path: Path) -> None:
    worker, sent = writer(tmp_path)
    worker.process(facts())
    [used, *_] = [d.memory_id for d in decided(tmp_path) if d.outcome == "superseded"]
    body = '{"namespace":"%s","request_id":"r","answered_at":"2026-01-02T00:00:00Z","hits":[{"memory_id":"%s","gate":0.5}]}'
    hits = batch((body % ("default", used)).encode(), topic=topics.MEMORY_HITS)
    worker.process(hits)
    worker.process(hits)
    [again] = hits.values()
    # The generator died before it committed, and another one answered the request once more.
    for other in (worker, writer(tmp_path)[0]):
        other.process(batch(again[0].value, topic=topics.MEMORY_HITS, start=7))
        assert other._held[HOME].bank.get("default", used or "").uses == 1  # type: ignore[union-attr]
    worker.process(batch((body % ("elsewhere", used)).encode(), topic=topics.MEMORY_HITS, start=1))
    memory = worker._held[HOME].bank.get("default", used or "")
    assert memory is not None and memory.uses == 1
    [letter] = sent.on(topics.DEAD_LETTERS)
    assert dict(letter.headers)["factstream.reason"] == b"wrong-partition"
    agree(sent, tmp_path)


def test_a_forget_removes_the_memory_and_publishes_a_tombstone(tmp_path: Path) -> None:
    worker, sent = writer(tmp_path)
    worker.process(facts())
    [memory, *_] = worker._held[HOME].bank.memories("default")
    worker.process(batch(message(row(4, "", kind="forget", forget=memory.memory_id)), start=4))
    assert decided(tmp_path)[-1].outcome == "forgotten"
    assert f"default/{memory.memory_id}".encode() not in sent.compacted()
    agree(sent, tmp_path)


def test_dead_letters_are_kept_and_invalid_ones_too(tmp_path: Path) -> None:
    worker, sent = writer(tmp_path)
    headers = {
        "topic": "facts", "partition": "1", "offset": "7", "reason": "invalid-json", "error": "not JSON",
        "worker": "encoder", "time": NOW.isoformat(),
    }  # fmt: skip
    letters = batch(b"{", b"?", b"!", b".", topic=topics.DEAD_LETTERS)
    [records] = letters.values()
    for record, more in zip(records, ({}, {"partition": "99999999999"}, {"time": "soon"}), strict=False):
        record.headers = [(PREFIX + name, value.encode()) for name, value in (headers | more).items()]
        record.headers.append(("reason", b"the producer's own"))
    worker.process(letters)
    worker.process(letters)
    [file] = (tmp_path / "dead_letters").glob("*.parquet")
    kept, *others = pa.parquet.read_table(file).to_pylist()
    assert kept["value"] == b"{" and kept["reason"] == "invalid-json" and kept["offset"] == 7
    assert [(row["value"], row["topic"], row["offset"]) for row in others] == [
        (b"?", topics.DEAD_LETTERS, 1), (b"!", topics.DEAD_LETTERS, 2), (b".", topics.DEAD_LETTERS, 3)
    ]  # fmt: skip
    assert {row["reason"] for row in others} == {"invalid-headers"}
    assert not sent.on(topics.DEAD_LETTERS)  # where they are already


def test_rewound_offsets_on_a_broker_decide_nothing_twice(settings: KafkaSettings, tmp_path: Path) -> None:
    """Two runs of the worker on a broker, the second from the beginning of every topic."""
    ensure_topics(settings)
    producer = settings.producer()
    home = partition_for("default", settings.partitions)

    def send(offset: int, text: str) -> None:
        value = message(row(offset, text, partition=home))
        producer.send(topics.FACT_ENCODINGS, value, b"default", home)
        producer.flush_or_raise()

    def run_until(true: Callable[[], object]) -> None:
        stop = Stop()
        worker = WriterWorker(settings, tmp_path, now=lambda: NOW)
        thread = threading.Thread(
            target=loop.run, args=(worker, settings, tmp_path, stop), kwargs={"poll_ms": 50}
        )
        thread.start()
        try:
            wait_until(true)
        finally:
            stop.set()
            thread.join(20)
        assert not thread.is_alive()

    def count() -> int:
        return sum(len(rows) for _, rows in history.read(tmp_path, home))

    for offset, text in enumerate(TEXTS):
        send(offset, text)
    run_until(lambda: count() == len(TEXTS))
    group = settings.consumer(settings.group("writer"))
    place = TopicPartition(settings.topic(topics.FACT_ENCODINGS), home)
    group.assign([place])
    group.commit({place: OffsetAndMetadata(0, "", -1)})
    group.close()
    send(len(TEXTS), "Ines Okafor keeps the rota.")
    run_until(lambda: count() == len(TEXTS) + 1)
    rows = [d for _, decisions in history.read(tmp_path, home) for d in decisions]
    assert [d.outcome for d in rows] == [*OUTCOMES, "learned"]
    assert [d.cause.offset for d in rows] == list(range(len(TEXTS) + 1))
    producer.close()
