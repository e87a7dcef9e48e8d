"""Changelog: recovered when a partition is taken, and repaired when other clients write to it."""

from pathlib import Path

import pytest

from pipeline.memory.events import Decision, SourceOffset
from schemas import topics
from schemas.changelog import PositionRecord, changelog_key
from schemas.common import decode
from tests.write.local_writer import (
    HOME,
    NOW,
    PARTITIONS,
    TEXTS,
    agree,
    batch,
    decided,
    facts,
    message,
    read,
    row,
    take,
    write,
    writer,
)
from workers.kafka.partitioner import partition_for
from workers.runtime.worker import Retry
from workers.write import changelog
from workers.write.worker import WriterWorker


def test_records_of_a_writer_that_stalled_are_repaired_by_the_owner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stalled between the history and the changelog, and publishes a memory that the owner has removed since."""
    asleep, sent = writer(tmp_path)
    owner, _ = writer(tmp_path, asleep._settings)  # type: ignore[arg-type]
    real, late = WriterWorker._produce, list[tuple[int, list[changelog.Record]]]()
    monkeypatch.setattr(
        WriterWorker, "_produce", lambda _, number, records: late.append((number, list(records)))
    )
    asleep.process(batch(message(row(0, TEXTS[0]))))
    monkeypatch.setattr(WriterWorker, "_produce", real)
    take(owner)
    owner.process(batch(message(row(1, TEXTS[2])), start=1))  # supersedes it
    agree(sent, tmp_path)
    owner.process(read(sent))
    committed = sent.end()
    for number, records in late:
        asleep._produce(number, records)
    sent.flush_or_raise()
    with pytest.raises(AssertionError):
        agree(sent, tmp_path)
    committed, before = sent.end(), committed
    owner.process(read(sent, before))
    agree(sent, tmp_path)
    count = len(sent.records)
    owner.process(read(sent, committed))  # its own repairs need no repair
    assert len(sent.records) == count > committed


def test_records_of_other_clients_are_repaired(tmp_path: Path) -> None:
    worker, sent = writer(tmp_path)
    worker.process(batch(message(row(0, TEXTS[0]))))
    before = sent.compacted()
    worker.process(batch(message(row(1, TEXTS[1])), message(row(2, TEXTS[2])), start=1))
    now, gone = sent.compacted(), set(before) - set(sent.compacted())
    assert len(gone) == 1 and len(now) == 3
    write(
        sent,
        *before.items(),  # what was superseded, and an old position
        *((key, None) for key in now),
        (changelog_key("default", "a" * 32), None),  # which nobody misses
    )
    committed = sent.end()
    worker.process(read(sent))
    agree(sent, tmp_path)
    assert len(read(sent, committed).popitem()[1]) == len(now) + len(gone)
    assert not sent.on(topics.DEAD_LETTERS)  # they are well formed
    [(key, value)] = ((key, value) for key, value in now.items() if b"Perth" in value)
    write(sent, (key, value.replace(b"Perth", b"Paris")))
    worker.process(read(sent, committed) | batch(message(row(3, TEXTS[3])), start=3))  # with facts in hand
    assert sent.compacted()[key] == value
    agree(sent, tmp_path)


def test_an_owner_that_lacks_the_last_file_repairs_nothing(tmp_path: Path) -> None:
    owner, sent = writer(tmp_path)
    other, _ = writer(tmp_path, owner._settings)  # type: ignore[arg-type]
    other.process(batch(message(row(0, TEXTS[0]))))
    with pytest.raises(Retry, match="another writer"):
        owner.process(read(sent))
    agree(sent, tmp_path)
    take(owner)
    owner.process(read(sent))
    agree(sent, tmp_path)


def test_a_takeover_publishes_the_difference_and_pending_dead_letters(tmp_path: Path) -> None:
    worker, sent = writer(tmp_path)
    worker.process(facts())
    count = len(sent.records)
    writer(tmp_path, worker._settings)  # type: ignore[arg-type]
    assert len(sent.records) == count
    lamp, gone = (changelog_key("default", m.memory_id) for m in worker._held[HOME].bank.memories("default"))
    write(sent, (lamp, b"{"), (gone, None), (b"default/more", b"{}"))
    committed, count = count, len(sent.records)
    other, _ = writer(tmp_path, worker._settings)  # type: ignore[arg-type]
    assert {record.key for record in sent.records[count:]} == {lamp, gone, b"default/more"}
    agree(sent, tmp_path)
    count = len(sent.on(topics.MEMORY_CHANGELOG))
    other.process(read(sent, committed))
    assert [(r.key, r.value) for r in sent.on(topics.DEAD_LETTERS)] == [
        (lamp, b"{"),
        (b"default/more", b"{}"),
    ]
    assert len(sent.on(topics.MEMORY_CHANGELOG)) == count


def test_a_new_broker_gets_the_whole_memory_and_all_positions(tmp_path: Path) -> None:
    worker, _ = writer(tmp_path)
    worker.process(facts())
    more = batch(message(row(9, "Ines Okafor keeps the rota.", namespace="space-13")), start=9)
    [[record]] = more.values()
    record.key = b"space-13"
    worker.process(more)
    assert partition_for("space-13", PARTITIONS) == HOME
    _, anew = writer(tmp_path)
    assert {key for key in anew.compacted() if key.endswith(b"/")} == {b"default/", b"space-13/"}
    assert len(anew.compacted()) == 2 + len(worker._held[HOME].bank)


def test_invalid_changelog_records_are_dead_letters_and_repaired(tmp_path: Path) -> None:
    worker, sent = writer(tmp_path)
    worker.process(facts())
    [memory, *_] = worker._held[HOME].bank.memories("default")
    own, key = sent.compacted(), changelog_key("default", memory.memory_id)
    bad = [
        (key, b"{"), (b"default/", b"7"), (b"\xff", b"{}"), (None, b"{}"), (changelog_key("default", "a" * 32), own[key]),
        (b"elsewhere/", own[b"default/"].replace(b"default", b"elsewhere")), (b"no slash", b"x"), (b"default", b"{}"),
    ]  # fmt: skip
    write(sent, *bad)
    after = sent.end()
    worker.process(read(sent))
    letters = sent.on(topics.DEAD_LETTERS)
    assert [(letter.key, letter.value) for letter in letters] == bad
    assert [dict(letter.headers)["factstream.reason"].decode() for letter in letters] == [
        "invalid-json", "invalid-json", "invalid-key", "invalid-key", "key-mismatch", "wrong-partition", "invalid-key",
        "invalid-key",
    ]  # fmt: skip
    agree(sent, tmp_path)  # what they overwrote stands there again, and what they added does not
    assert set(sent.compacted()) == set(own)
    told = len(sent.records)
    worker.process(read(sent, after))  # the writer reads what it told, and has nothing to say to it
    assert len(sent.records) == told


def test_sent_offsets_are_few_ranges_and_the_oldest_are_forgotten() -> None:
    sent = changelog.SentOffsets(5)
    for offset in (7, 8, 9, 12, -1, 13):
        sent.add(offset)
    assert [sent.was_recovered(n) for n in (0, 4, 5)] == [True, True, False]
    assert [n for n in range(6, 15) if sent.was_sent(n)] == [7, 8, 9, 12, 13]
    for offset in range(0, 10 * changelog.MAX_RANGES, 2):
        sent.add(100 + offset)
    assert sum(sent.was_sent(n) for n in range(100, 100 + 10 * changelog.MAX_RANGES)) == changelog.MAX_RANGES


def test_a_namespace_fed_by_many_brokers_has_a_bounded_position_record(tmp_path: Path) -> None:
    worker, _ = writer(tmp_path)
    worker.process(facts())
    bank, [last, *_] = worker._held[HOME].bank, decided(tmp_path)
    for life in range(changelog.MAX_POSITIONS + 8):
        cause = SourceOffset("facts", f"life-{life}", HOME, 0)
        bank.apply(Decision("default", "skipped", cause, NOW))
    *_, (_, value) = changelog.decision_records(bank, [last], [])
    told = decode(PositionRecord, value)
    assert len(told.positions) == changelog.MAX_POSITIONS
    assert f"life-{changelog.MAX_POSITIONS + 7}/{HOME}" in told.positions
