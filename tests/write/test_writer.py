"""The writer: each fact is decided once, and the changelog says what the history says."""

import math
import threading
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
from kafka import OffsetAndMetadata, TopicPartition
from kafka.errors import KafkaTimeoutError

from pipeline.history import log as history
from pipeline.memory.events import Decision, SourceOffset
from pipeline.text.words import split
from schemas import topics
from schemas.changelog import MemoryRecord, PositionRecord, changelog_key
from schemas.common import decode
from schemas.encoding import FACT_ENCODINGS, encode_batch
from tests.conftest import wait_until
from workers.kafka.admin import ensure_topics
from workers.kafka.clients import KafkaSettings, partition_for
from workers.runtime import loop
from workers.runtime.loop import Retry
from workers.write import changelog
from workers.write.partition import load
from workers.write.worker import WriterWorker

NOW = datetime(2026, 1, 2, tzinfo=UTC)
TEXTS = [
    "Torben Betts was from Munich.",
    "The Harlow lamp is made of walnut.",
    "Torben Betts was from Perth.",
    "The Harlow lamp is made of walnut.",
]
OUTCOMES = ["learned", "learned", "superseded", "reinforced"]
IDS = {topic.name: f"id-{topic.name}" for topic in topics.TOPICS}
PARTITIONS = 4
HOME = partition_for("default", PARTITIONS)


class Sent:
    """A producer that keeps what it was sent once it was flushed; `failures` flushes fail first."""

    def __init__(self, settings: KafkaSettings) -> None:
        self.settings = settings
        self.records: list[SimpleNamespace] = []
        self.failures = 0
        self._waiting: list[SimpleNamespace] = []

    def send(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None = None,
        partition: int | None = None,
        headers: Iterable[tuple[str, bytes]] = (),
    ) -> None:
        self._waiting.append(
            SimpleNamespace(topic=topic, value=value, key=key, partition=partition, headers=list(headers))
        )

    def flush_or_raise(self) -> list[SimpleNamespace]:
        waiting, self._waiting = self._waiting, []
        if self.failures:
            self.failures -= 1
            raise KafkaTimeoutError("nobody acknowledged")
        for record in waiting:
            record.offset = len(self.at(record.topic, record.partition))
            self.records.append(record)
        return waiting

    def at(self, topic: str, partition: int) -> list[SimpleNamespace]:
        return [record for record in self.on(topic) if record.partition == partition]

    def end(self) -> int:
        return len(self.at(topics.MEMORY_CHANGELOG, HOME))

    def crash(self) -> None:
        """What is not flushed is gone, and the next process has a broker that answers."""
        self._waiting, self.failures = [], 0

    def close(self) -> None: ...

    def on(self, topic: str) -> list[SimpleNamespace]:
        return [record for record in self.records if record.topic == topic]

    def compacted(self) -> dict[bytes, bytes]:
        last = {record.key: record.value for record in self.on(topics.MEMORY_CHANGELOG)}
        return {key: value for key, value in last.items() if key and value is not None}


class Reader:
    """A consumer without a group, of what was sent."""

    def __init__(self, sent: Sent) -> None:
        self._sent = sent
        self._positions: dict[TopicPartition, int] = {}

    def unsubscribe(self) -> None: ...
    def seek_to_beginning(self) -> None: ...
    def close(self) -> None: ...

    def assign(self, partitions: Iterable[TopicPartition]) -> None:
        self._positions = dict.fromkeys(partitions, 0)

    def assignment(self) -> set[TopicPartition]:
        return set(self._positions)

    def highwater(self, tp: TopicPartition) -> int:
        return len(self._sent.at(*tp))

    def position(self, tp: TopicPartition, timeout_ms: int = 0) -> int:
        return self._positions[tp]

    def poll(self, timeout_ms: int) -> dict[TopicPartition, list[SimpleNamespace]]:
        polled = {tp: self._sent.at(*tp)[position:] for tp, position in self._positions.items()}
        self._positions = {tp: self.highwater(tp) for tp in polled}
        return {tp: records for tp, records in polled.items() if records}


class Local(KafkaSettings):
    """One cluster of its own: whoever asks it for a producer gets the same one, and reads what that one sent."""

    def producer(self) -> Any:
        return self.__dict__.setdefault("sent", Sent(self))

    def consumer(self, *_: Any) -> Any:
        return Reader(self.producer())


def writer(data: Path, cluster: Local | None = None) -> tuple[WriterWorker, Sent]:
    made = WriterWorker(cluster or Local(), data, now=lambda: NOW)
    return made, begin(made)


def begin(made: WriterWorker) -> Sent:
    made.start(SimpleNamespace(partitions_for_topic=lambda _: set(range(PARTITIONS))), IDS)
    take(made)
    sent = made._producer
    assert isinstance(sent, Sent)
    return sent


def take(made: WriterWorker) -> None:
    made.assigned([TopicPartition(topic, HOME) for topic in made.topics])


def write(sent: Sent, *others: tuple[bytes | None, bytes | None]) -> None:
    """Somebody else writes to the changelog."""
    for key, value in others:
        sent.send(topics.MEMORY_CHANGELOG, value, key, HOME)
    sent.flush_or_raise()


def read(sent: Sent, since: int = 0) -> dict[TopicPartition, list[Any]]:
    """The changelog as its owner consumes it, who committed `since`."""
    place = TopicPartition(topics.MEMORY_CHANGELOG, HOME)
    return {place: sent.at(*place)[since:]}


def row(offset: int, text: str, **more: Any) -> dict[str, Any]:
    words = len(split(text))
    at = NOW + timedelta(hours=offset)
    return {
        "kind": "fact", "topic_id": IDS[topics.FACTS], "partition": HOME, "offset": offset, "namespace": "default",
        "text": text, "observed_at": at, "published_at": at, "encoder_id": "e", "base_loss": 4.5,
        "recall_loss": 0.5, "loss_delta": 4.0, "priors": [2.0 if w.term in ("was", "is", "of", "the") else 12.0
        for w in split(text)], "surprisals": [3.0] * words, "vectors": b"",
    } | more  # fmt: skip


def message(*rows: dict[str, Any]) -> bytes:
    return encode_batch(pa.RecordBatch.from_pylist(list(rows), schema=FACT_ENCODINGS))


def batch(
    *values: bytes, topic: str = topics.FACT_ENCODINGS, partition: int = HOME, start: int = 0
) -> dict[TopicPartition, list[Any]]:
    records = [
        SimpleNamespace(topic=topic, partition=partition, offset=i, key=b"default", value=value, headers=[])
        for i, value in enumerate(values, start)
    ]
    return {TopicPartition(topic, partition): records}


def facts() -> dict[TopicPartition, list[Any]]:
    return batch(*(message(row(i, text)) for i, text in enumerate(TEXTS)))


def decided(data: Path) -> list[Decision]:
    return [decision for _, rows in history.read(data, HOME) for decision in rows]


def agree(sent: Sent, data: Path) -> None:
    """The compacted changelog holds the memories of the history, and those only."""
    bank = load(data, HOME, WriterWorker(Local(), data)._bank_settings).bank
    told = {key: value for key, value in sent.compacted().items() if not key.endswith(b"/")}
    assert {decode(MemoryRecord, value, 2**23).memory_id for value in told.values()} == {
        memory.memory_id for memory in bank.memories("default")
    }
    position = decode(PositionRecord, sent.compacted()[b"default/"])
    assert position.positions == bank.positions("default")


def test_a_batch_becomes_one_file_and_the_changelog_tells_it(tmp_path: Path) -> None:
    made, sent = writer(tmp_path)
    made.process(facts())
    assert [d.outcome for d in decided(tmp_path)] == OUTCOMES
    assert history.last_sequence(tmp_path, HOME) == 0
    agree(sent, tmp_path)
    told = decode(PositionRecord, sent.compacted()[b"default/"])
    assert [(d.offset, d.outcome) for d in told.decided] == list(enumerate(OUTCOMES))
    assert {record.partition for record in sent.on(topics.MEMORY_CHANGELOG)} == {HOME}


def test_what_is_delivered_again_is_not_decided_again(tmp_path: Path) -> None:
    made, _ = writer(tmp_path)
    made.process(facts())
    digest = load(tmp_path, HOME, made._bank_settings).bank.digest()
    made.process(facts())  # by the same writer
    other, _ = writer(tmp_path)
    other.process(facts())  # and by one that starts anew
    twice = message(row(3, TEXTS[3]), row(4, "Ines Okafor keeps the rota."), row(4, "Not this one."))
    other.process(batch(twice, start=4))
    assert [d.cause.offset for d in decided(tmp_path)] == [0, 1, 2, 3, 4]
    held = other._held[HOME].bank
    assert held.digest() == load(tmp_path, HOME, made._bank_settings).bank.digest() != digest


def test_a_crash_before_the_changelog_is_mended_by_the_next_writer(tmp_path: Path) -> None:
    made, sent = writer(tmp_path)
    made.process(batch(message(row(0, TEXTS[0]))))
    before = sent.compacted()
    sent.failures = 1
    with pytest.raises(KafkaTimeoutError):
        made.process(batch(message(row(1, TEXTS[2])), start=1))
    assert [d.outcome for d in decided(tmp_path)] == ["learned", "superseded"]  # it is in the history
    assert sent.compacted() == before  # and nobody was told
    _, mended = writer(tmp_path, made._settings)  # type: ignore[arg-type]
    agree(mended, tmp_path)


def test_a_failed_flush_is_made_good_by_the_same_writer(tmp_path: Path) -> None:
    made, sent = writer(tmp_path)
    sent.failures = 2
    with pytest.raises(KafkaTimeoutError):
        made.process(facts())
    with pytest.raises(KafkaTimeoutError):
        take(made)  # as the loop does after a failure, and it fails again
    take(made)
    made.process(facts())
    assert [d.outcome for d in decided(tmp_path)] == OUTCOMES
    agree(sent, tmp_path)


def test_of_two_writers_the_later_one_folds_what_the_other_wrote(tmp_path: Path) -> None:
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


def test_what_a_writer_tells_that_slept_is_mended_by_the_owner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It wrote its file, and stood still before the changelog; the next one has removed since what it tells then."""
    asleep, sent = writer(tmp_path)
    owner, _ = writer(tmp_path, asleep._settings)  # type: ignore[arg-type]
    real, late = WriterWorker._produce, list[tuple[int, changelog.Record]]()
    monkeypatch.setattr(WriterWorker, "_produce", lambda _, *record: late.append(record))
    asleep.process(batch(message(row(0, TEXTS[0]))))
    monkeypatch.setattr(WriterWorker, "_produce", real)
    take(owner)
    owner.process(batch(message(row(1, TEXTS[2])), start=1))  # supersedes it
    agree(sent, tmp_path)
    owner.process(read(sent))
    committed = sent.end()
    for record in late:
        asleep._produce(*record)
    sent.flush_or_raise()
    with pytest.raises(AssertionError):
        agree(sent, tmp_path)
    committed, before = sent.end(), committed
    owner.process(read(sent, before))
    agree(sent, tmp_path)
    count = len(sent.records)
    owner.process(read(sent, committed))  # what it sent to mend it needs no mending
    assert len(sent.records) == count > committed


def test_whatever_others_write_the_changelog_says_what_the_history_says(tmp_path: Path) -> None:
    made, sent = writer(tmp_path)
    made.process(batch(message(row(0, TEXTS[0]))))
    before = sent.compacted()
    made.process(batch(message(row(1, TEXTS[1])), message(row(2, TEXTS[2])), start=1))
    now, gone = sent.compacted(), set(before) - set(sent.compacted())
    assert len(gone) == 1 and len(now) == 3
    write(
        sent,
        *before.items(),  # what was superseded, and an old position
        *((key, None) for key in now),
        (changelog_key("default", "a" * 32), None),  # which nobody misses
    )
    committed = sent.end()
    made.process(read(sent))
    agree(sent, tmp_path)
    assert len(read(sent, committed).popitem()[1]) == len(now) + len(gone)
    assert not sent.on(topics.DEAD_LETTERS)  # they are well formed
    [(key, value)] = ((key, value) for key, value in now.items() if b"Perth" in value)
    write(sent, (key, value.replace(b"Perth", b"Paris")))
    made.process(read(sent, committed) | batch(message(row(3, TEXTS[3])), start=3))  # with facts in hand
    assert sent.compacted()[key] == value
    agree(sent, tmp_path)


def test_an_owner_that_does_not_know_the_last_file_mends_nothing_by_what_it_knows(tmp_path: Path) -> None:
    owner, sent = writer(tmp_path)
    other, _ = writer(tmp_path, owner._settings)  # type: ignore[arg-type]
    other.process(batch(message(row(0, TEXTS[0]))))
    with pytest.raises(Retry, match="another writer"):
        owner.process(read(sent))
    agree(sent, tmp_path)
    take(owner)
    owner.process(read(sent))
    agree(sent, tmp_path)


def test_a_takeover_tells_the_difference_and_the_letters_that_the_last_one_owes(tmp_path: Path) -> None:
    made, sent = writer(tmp_path)
    made.process(facts())
    count = len(sent.records)
    writer(tmp_path, made._settings)  # type: ignore[arg-type]
    assert len(sent.records) == count
    lamp, gone = (changelog_key("default", m.memory_id) for m in made._held[HOME].bank.memories("default"))
    write(sent, (lamp, b"{"), (gone, None), (b"default/more", b"{}"))
    committed, count = count, len(sent.records)
    other, _ = writer(tmp_path, made._settings)  # type: ignore[arg-type]
    assert {record.key for record in sent.records[count:]} == {lamp, gone, b"default/more"}
    agree(sent, tmp_path)
    count = len(sent.on(topics.MEMORY_CHANGELOG))
    other.process(read(sent, committed))
    assert [(r.key, r.value) for r in sent.on(topics.DEAD_LETTERS)] == [
        (lamp, b"{"),
        (b"default/more", b"{}"),
    ]
    assert len(sent.on(topics.MEMORY_CHANGELOG)) == count


def test_a_new_broker_is_told_the_whole_memory_and_all_positions(tmp_path: Path) -> None:
    made, _ = writer(tmp_path)
    made.process(facts())
    more = batch(message(row(9, "Ines Okafor keeps the rota.", namespace="space-13")), start=9)
    [[record]] = more.values()
    record.key = b"space-13"
    made.process(more)
    assert partition_for("space-13", PARTITIONS) == HOME
    _, anew = writer(tmp_path)
    assert {key for key in anew.compacted() if key.endswith(b"/")} == {b"default/", b"space-13/"}
    assert len(anew.compacted()) == 2 + len(made._held[HOME].bank)


def test_a_partition_that_comes_back_unchanged_is_not_folded_again(tmp_path: Path) -> None:
    made, sent = writer(tmp_path)
    made.process(facts())
    count, held = len(sent.records), made._held[HOME]
    take(made)
    assert made._held[HOME] is held and len(sent.records) == count


@pytest.mark.parametrize("wrote", [False, True])
def test_what_was_folded_before_the_assignment_counts_unless_somebody_wrote_since(
    tmp_path: Path, wrote: bool
) -> None:
    other, _ = writer(tmp_path)
    other.process(facts())
    made = WriterWorker(Local(), tmp_path, now=lambda: NOW)
    made.load(alone=False)
    assert not made._loaded  # the partitions of others are theirs
    made.load(alone=True)
    folded = made._loaded[HOME]
    if wrote:
        other.process(batch(message(row(9, "Ines Okafor keeps the rota.")), start=9))
    sent = begin(made)
    assert (made._held[HOME] is folded) != wrote and not made._loaded
    agree(sent, tmp_path)


FORGED: dict[str, Callable[[], bytes]] = {
    "not arrow": lambda: b"ARROW1 or so",
    "a loss that is no number": lambda: message(row(0, TEXTS[0], base_loss=math.nan)),
    "an infinite surprisal": lambda: message(row(0, TEXTS[0], surprisals=[math.inf] * 5)),
    "fewer priors than words": lambda: message(row(0, TEXTS[0], priors=[1.0])),
    "no priors": lambda: message(row(0, TEXTS[0], priors=None)),
    "vectors that do not fit": lambda: message(row(0, TEXTS[0], vectors=b"123")),
    "vectors too large to publish": lambda: message(row(0, TEXTS[0], vectors=bytes(5 * 2**20))),
    "a blank text": lambda: message(row(0, " ")),
    "no text": lambda: message(row(0, TEXTS[0]) | {"text": None}),
    "an infinite threshold": lambda: message(row(0, TEXTS[0], min_loss_delta=math.inf)),
    "an unknown kind": lambda: message(row(0, TEXTS[0], kind="order")),
    "a negative offset": lambda: message(row(-1, TEXTS[0])),
    "a forget with a negative offset": lambda: message(row(-1, "", kind="forget", forget="a" * 32)),
    "a forget of nothing": lambda: message(row(0, "", kind="forget")),
    "a topic id nobody has": lambda: message(row(0, TEXTS[0], topic_id="x" * 10_000)),
    "no encoder": lambda: message(row(0, TEXTS[0], encoder_id="")),
    "no namespace": lambda: message(row(0, TEXTS[0], namespace="No Such")),
    "a namespace of another partition": lambda: message(row(0, TEXTS[0], namespace="elsewhere")),
    "one bad row among good ones": lambda: message(row(0, TEXTS[0]), row(1, TEXTS[1], priors=[])),
    "a time beyond the calendar": lambda: message_at(2**62),
}


def message_at(microseconds: int) -> bytes:
    at = pa.array([microseconds], pa.timestamp("us", tz="UTC"))
    table = pa.RecordBatch.from_pylist([row(0, TEXTS[0])], schema=FACT_ENCODINGS)
    columns = [at if name == "observed_at" else table.column(name) for name in FACT_ENCODINGS.names]
    return encode_batch(pa.RecordBatch.from_arrays(columns, schema=FACT_ENCODINGS))


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_message_is_a_dead_letter_and_the_writer_goes_on(name: str, tmp_path: Path) -> None:
    assert partition_for("elsewhere", PARTITIONS) != HOME
    made, sent = writer(tmp_path)
    value = FORGED[name]()
    made.process(batch(value, message(row(9, TEXTS[0]))))
    [letter] = sent.on(topics.DEAD_LETTERS)
    assert letter.value == value and letter.key == b"default" and dict(letter.headers)["reason"]
    assert [(d.cause.offset, d.outcome) for d in decided(tmp_path)] == [(9, "learned")]
    agree(sent, tmp_path)


def test_a_key_that_says_another_namespace_is_a_dead_letter(tmp_path: Path) -> None:
    made, sent = writer(tmp_path)
    hits = b'{"namespace":"default","request_id":"r","answered_at":"2026-01-02T00:00:00Z","hits":[{"memory_id":"%s","gate":0.5}]}'
    for value, topic in (
        (message(row(0, TEXTS[0])), topics.FACT_ENCODINGS),
        (hits % (b"a" * 32), topics.MEMORY_HITS),
    ):
        records = batch(value, value, topic=topic)
        [(first, second)] = records.values()
        first.key, second.key = b"elsewhere", None
        made.process(records)
    assert [dict(letter.headers)["reason"] for letter in sent.on(topics.DEAD_LETTERS)] == [
        b"key-mismatch"
    ] * 2
    assert [d.outcome for d in decided(tmp_path)] == [
        "learned",
        "used",
    ]  # a record without a key says nothing else


def test_uses_are_counted_once_and_only_where_the_namespace_lives(tmp_path: Path) -> None:
    made, sent = writer(tmp_path)
    made.process(facts())
    [used, *_] = [d.memory_id for d in decided(tmp_path) if d.outcome == "superseded"]
    body = '{"namespace":"%s","request_id":"r","answered_at":"2026-01-02T00:00:00Z","hits":[{"memory_id":"%s","gate":0.5}]}'
    hits = batch((body % ("default", used)).encode(), topic=topics.MEMORY_HITS)
    made.process(hits)
    made.process(hits)
    [again] = hits.values()
    # The generator died before it committed, and another one answered the request once more.
    for other in (made, writer(tmp_path)[0]):
        other.process(batch(again[0].value, topic=topics.MEMORY_HITS, start=7))
        assert other._held[HOME].bank.get("default", used or "").uses == 1  # type: ignore[union-attr]
    made.process(batch((body % ("elsewhere", used)).encode(), topic=topics.MEMORY_HITS, start=1))
    memory = made._held[HOME].bank.get("default", used or "")
    assert memory is not None and memory.uses == 1
    [letter] = sent.on(topics.DEAD_LETTERS)
    assert dict(letter.headers)["reason"] == b"wrong-partition"
    agree(sent, tmp_path)


def test_a_forget_removes_the_memory_and_leaves_a_tombstone(tmp_path: Path) -> None:
    made, sent = writer(tmp_path)
    made.process(facts())
    [memory, *_] = made._held[HOME].bank.memories("default")
    made.process(batch(message(row(4, "", kind="forget", forget=memory.memory_id)), start=4))
    assert decided(tmp_path)[-1].outcome == "forgotten"
    assert f"default/{memory.memory_id}".encode() not in sent.compacted()
    agree(sent, tmp_path)


def test_dead_letters_are_kept_and_what_is_none_is_kept_as_one(tmp_path: Path) -> None:
    made, sent = writer(tmp_path)
    said = {
        "topic": "facts", "partition": "1", "offset": "7", "reason": "invalid-json", "error": "not JSON",
        "worker": "encoder", "time": NOW.isoformat(),
    }  # fmt: skip
    letters = batch(b"{", b"?", b"!", b".", topic=topics.DEAD_LETTERS)
    [records] = letters.values()
    for record, more in zip(records, ({}, {"partition": "99999999999"}, {"time": "soon"}), strict=False):
        record.headers = [(name, value.encode()) for name, value in (said | more).items()]
    made.process(letters)
    made.process(letters)
    [file] = (tmp_path / "dead_letters").glob("*.parquet")
    kept, *others = pa.parquet.read_table(file).to_pylist()
    assert kept["value"] == b"{" and kept["reason"] == "invalid-json" and kept["offset"] == 7
    assert [(row["value"], row["topic"], row["offset"]) for row in others] == [
        (b"?", topics.DEAD_LETTERS, 1), (b"!", topics.DEAD_LETTERS, 2), (b".", topics.DEAD_LETTERS, 3)
    ]  # fmt: skip
    assert {row["reason"] for row in others} == {"invalid-headers"}
    assert not sent.on(topics.DEAD_LETTERS)  # where they are already


def test_what_others_write_to_the_changelog_is_a_dead_letter_and_mended(tmp_path: Path) -> None:
    made, sent = writer(tmp_path)
    made.process(facts())
    [memory, *_] = made._held[HOME].bank.memories("default")
    own, key = sent.compacted(), changelog_key("default", memory.memory_id)
    bad = [
        (key, b"{"), (b"default/", b"7"), (b"\xff", b"{}"), (None, b"{}"), (changelog_key("default", "a" * 32), own[key]),
        (b"elsewhere/", own[b"default/"].replace(b"default", b"elsewhere")), (b"no slash", b"x"), (b"default", b"{}"),
    ]  # fmt: skip
    write(sent, *bad)
    after = sent.end()
    made.process(read(sent))
    letters = sent.on(topics.DEAD_LETTERS)
    assert [(letter.key, letter.value) for letter in letters] == bad
    assert [dict(letter.headers)["reason"].decode() for letter in letters] == [
        "invalid-json", "invalid-json", "invalid-key", "invalid-key", "key-mismatch", "wrong-partition", "invalid-key",
        "invalid-key",
    ]  # fmt: skip
    agree(sent, tmp_path)  # what they overwrote stands there again, and what they added does not
    assert set(sent.compacted()) == set(own)
    told = len(sent.records)
    made.process(read(sent, after))  # the writer reads what it told, and has nothing to say to it
    assert len(sent.records) == told


def test_runs_of_offsets_are_told_apart_and_few() -> None:
    sent = changelog.SentOffsets(5)
    for offset in (7, 8, 9, 12, -1, 13):
        sent.add(offset)
    assert [sent.was_recovered(n) for n in (0, 4, 5)] == [True, True, False]
    assert [n for n in range(6, 15) if sent.was_sent(n)] == [7, 8, 9, 12, 13]
    for offset in range(0, 10 * changelog.MAX_RANGES, 2):
        sent.add(100 + offset)
    assert sum(sent.was_sent(n) for n in range(100, 100 + 10 * changelog.MAX_RANGES)) == changelog.MAX_RANGES


def test_a_namespace_fed_by_ever_new_brokers_can_still_be_published(tmp_path: Path) -> None:
    made, _ = writer(tmp_path)
    made.process(facts())
    bank, [last, *_] = made._held[HOME].bank, decided(tmp_path)
    for life in range(changelog.MAX_POSITIONS + 8):
        cause = SourceOffset("facts", f"life-{life}", HOME, 0)
        bank.apply(Decision("default", "skipped", cause, NOW))
    *_, (_, value) = changelog.decision_records(bank, [last])
    told = decode(PositionRecord, value)
    assert len(told.positions) == changelog.MAX_POSITIONS
    assert f"life-{changelog.MAX_POSITIONS + 7}/{HOME}" in told.positions


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
        stop = threading.Event()
        made = WriterWorker(settings, tmp_path, now=lambda: NOW)
        thread = threading.Thread(
            target=loop.run, args=(made, settings, tmp_path, stop), kwargs={"poll_ms": 50}
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
    rows = [d for _, made in history.read(tmp_path, home) for d in made]
    assert [d.outcome for d in rows] == [*OUTCOMES, "learned"]
    assert [d.cause.offset for d in rows] == list(range(len(TEXTS) + 1))
    producer.close()
