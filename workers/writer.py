"""The writer: decides each fact once, keeps the history, and publishes the memory.

The contract, for a batch of one partition: decide, append one history file, publish the changelog, flush, commit. The
history is the truth. After a crash it is folded, what it has decided is skipped, and what the changelog may lack is
published again. Two writers cannot append the same file number: the later one folds anew. A writer that slept while
another had its partition still tells what it knew: the owner sees that somebody else wrote to the changelog, and mends it.
Nothing on a topic is trusted, and nothing in a message may stop a writer for good: what it cannot take, or could not
publish afterwards, goes to the dead letters before it is decided.
"""

import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from kafka import TopicPartition

from pipeline import history
from pipeline.bank import Bank
from pipeline.decision import Cause, Decision, NewFact
from pipeline.encoding import Encoding
from pipeline.records import to_record
from pipeline.settings import Settings
from pipeline.words import split
from schemas import topics
from schemas.changelog import Decided, PositionRecord, changelog_key
from schemas.common import BadMessage, decode, encode, validate
from schemas.encoding import MAX_VECTOR_BYTES, decode_batch
from schemas.fact import Fact, Forget
from schemas.hits import MemoryHits
from workers.kafka import KafkaSettings, Producer, dead_letter, partition_for
from workers.loop import Done, Retry
from workers.topics import end_offsets, standing

LOOK_S = 2.0  # how often an idle writer looks whether somebody else wrote to its changelog
TOLD = 1_000  # verdicts in one position record
POSITIONS = 1_024  # logs in one position record: the newest, should a namespace have been fed from more
_ID = re.compile(r"[0-9A-Za-z_-]{1,64}")  # of a topic or an encoder


@dataclass
class Partition:
    """What the writer holds of one partition: the fold of its history, and that history's last file."""

    bank: Bank
    sequence: int
    last: list[Decision]


def load(data: Path, number: int, settings: Settings) -> Partition:
    sequence, bank = -1, Bank(settings)
    last: list[Decision] = []
    for sequence, last in history.read(data, number):  # noqa: B007
        for decision in last:
            bank.apply(decision)
    return Partition(bank, sequence, last)


def decide_rows(bank: Bank, rows: Iterable[dict[str, Any]], now: Callable[[], datetime]) -> list[Decision]:
    """Decides rows of fact-encodings in order, applying each; those that were decided before are left out."""
    made: list[Decision] = []
    for row in rows:
        cause = Cause("facts", row["topic_id"], row["partition"], row["offset"])
        if bank.is_decided(row["namespace"], cause):
            continue
        if row["kind"] == "forget":
            decisions = bank.decide_forget(row["namespace"], row["forget"], cause, now())
        else:
            decisions = bank.decide(_fact(row, cause), now())
        for decision in decisions:
            bank.apply(decision)
        made += decisions
    return made


def check_rows(value: bytes | None) -> list[dict[str, Any]]:
    """The rows of a message on fact-encodings; raises BadMessage where one of them cannot be."""
    batch = decode_batch(value)
    try:
        rows: list[dict[str, Any]] = batch.to_pylist()
    except (OverflowError, ValueError) as error:
        raise BadMessage("invalid-field", f"a time is out of range: {error}") from None
    for row in rows:
        if row["kind"] not in ("fact", "forget") or row["partition"] < 0 or row["offset"] < 0:
            raise BadMessage("invalid-field", "kind, partition or offset is none")
        if not (_ID.fullmatch(row["topic_id"]) and _ID.fullmatch(row["encoder_id"])):
            raise BadMessage("invalid-field", "topic_id or encoder_id is none")
        if row["kind"] == "forget":
            validate(Forget, {"forget": row["forget"], "namespace": row["namespace"]})
            continue
        optional = ("category", "source", "fact_id", "min_loss_delta")
        body = {name: row[name] for name in optional if row[name] is not None}
        validate(Fact, body | {"text": row["text"], "namespace": row["namespace"]})
        words = len(split(row["text"]))
        numbers = [
            row["base_loss"],
            row["recall_loss"],
            row["loss_delta"],
            *(row["priors"] or []),
            *(row["surprisals"] or []),
        ]
        if any(n is None for n in numbers) or not np.isfinite(numbers).all():
            raise BadMessage("invalid-field", "a loss, a prior or a surprisal is missing or not finite")
        if len(row["priors"] or []) != words or len(row["surprisals"] or []) != words:
            raise BadMessage("invalid-field", f"priors and surprisals do not fit the text's {words} words")
        if row["vectors"] is None or (len(row["vectors"]) % words if words else row["vectors"]):
            raise BadMessage("invalid-field", f"vectors do not fit the text's {words} words")
        if len(row["vectors"]) > MAX_VECTOR_BYTES:
            raise BadMessage("invalid-field", f"vectors of {len(row['vectors'])} bytes")
    return rows


def changelog(bank: Bank, decisions: Sequence[Decision]) -> list[tuple[str, bytes, bytes | None]]:
    """(namespace, key, value) of the records that tell a replica, and whoever waits, what was decided."""
    records: list[tuple[str, bytes, bytes | None]] = []
    touched: dict[tuple[str, str], None] = {}
    for d in decisions:
        for memory_id in (d.memory_id, d.nearest if d.outcome == "superseded" else None):
            if memory_id and d.outcome not in ("outdated", "duplicate", "skipped"):
                touched[d.namespace, memory_id] = None
    for namespace, memory_id in touched:
        memory = bank.get(namespace, memory_id)
        value = encode(to_record(memory)) if memory else None
        records.append((namespace, changelog_key(namespace, memory_id), value))
    told: dict[str, list[Decided]] = {d.namespace: [] for d in decisions}
    for d in decisions:
        if d.cause.topic == "facts" and d.outcome != "evicted":
            told[d.namespace].append(
                Decided(
                    topic_id=d.cause.topic_id, partition=d.cause.partition, offset=d.cause.offset,
                    outcome=d.outcome, memory_id=d.memory_id, loss_delta=d.loss_delta,  # type: ignore[arg-type]
                )
            )  # fmt: skip
    for namespace, verdicts in told.items():
        for i in range(0, max(1, len(verdicts)), TOLD):
            record = _position(bank, namespace, verdicts[i : i + TOLD])
            records.append((namespace, changelog_key(namespace), encode(record)))
    return records


def _position(bank: Bank, namespace: str, verdicts: Sequence[Decided] = ()) -> PositionRecord:
    positions = dict(list(bank.positions(namespace).items())[-POSITIONS:])
    return PositionRecord(namespace=namespace, positions=positions, decided=list(verdicts))


class WriterWorker:
    name = "writer"
    topics: Sequence[str] = (topics.FACT_ENCODINGS, topics.MEMORY_HITS, topics.DEAD_LETTERS)

    def __init__(
        self,
        settings: KafkaSettings,
        data: Path,
        bank_settings: Settings | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._settings, self._data, self._now = settings, data, now
        self._bank_settings = bank_settings or Settings()
        self._held: dict[int, Partition] = {}
        self._owned: set[int] = set()
        self._ends: dict[int, int] = {}  # of the changelog's partitions, as we left them
        self._looked = 0.0
        self._topic_ids: dict[str, str] = {}
        self._producer: Producer | None = None

    def start(self, consumer: Any, topic_ids: dict[str, str]) -> None:
        self._topic_ids = topic_ids
        name = self._settings.topic(topics.FACT_ENCODINGS)
        self._partitions = len(consumer.partitions_for_topic(name) or ())
        self._producer = self._settings.producer()
        self._reader = self._settings.consumer()

    def assigned(self, partitions: list[Any]) -> None:
        """Folds what is ours, unless it is held and nobody wrote since; then tells the changelog what it lacks of it."""
        self._owned |= (ours := {p.partition for p in partitions})
        self._tell([n for n in sorted(ours) if n not in self._held or not self._is_last(n, self._held[n])])

    def revoked(self, partitions: list[Any]) -> None:
        self._owned -= {p.partition for p in partitions}

    def idle(self) -> None:
        if self._owned and time.monotonic() - self._looked > LOOK_S:
            ends = end_offsets(self._reader, [self._log(number) for number in sorted(self._owned)])
            self._tell([log.partition for log, end in ends.items() if self._ends[log.partition] != end])
            self._looked = time.monotonic()

    def _is_last(self, number: int, part: Partition) -> bool:
        return part.sequence == history.last_sequence(self._data, number)

    def _log(self, number: int) -> TopicPartition:
        return TopicPartition(self._settings.topic(topics.MEMORY_CHANGELOG), number)

    def _tell(self, numbers: Sequence[int]) -> None:
        """Makes the changelog's partitions say what the history says: sends what they lack, removes what is no more."""
        told, self._held = self._held, {}  # held again only when the changelog has it
        found = standing(self._reader, [self._log(number) for number in numbers])
        for number, (stands, end) in zip(numbers, found.values(), strict=True):
            self._ends[number] = end
            if number not in told or not self._is_last(number, told[number]):
                told[number] = load(self._data, number, self._bank_settings)
            bank = told[number].bank
            for namespace in bank.namespaces:
                for memory in bank.memories(namespace):
                    key, value = changelog_key(namespace, memory.memory_id), encode(to_record(memory))
                    if stands.pop(key, None) != hash(value):
                        self._send(number, key, value)
                stands.pop(changelog_key(namespace), None)
                self._send(number, changelog_key(namespace), encode(_position(bank, namespace)))
            for key in stands:
                self._send(number, key, None)
            for _, key, told_last in changelog(bank, told[number].last):
                self._send(number, key, told_last)
        for number in self._flush():  # somebody wrote since it was read: it is looked at again
            self._ends[number] = -1
        self._held = told

    def _flush(self) -> list[int]:
        """Flushes; the changelog's partitions to which somebody else wrote meanwhile."""
        assert self._producer is not None
        others: dict[int, None] = {}
        for sent in self._producer.flush_or_raise():
            if sent.topic == self._settings.topic(topics.MEMORY_CHANGELOG):
                if sent.offset != self._ends[sent.partition]:
                    others[sent.partition] = None
                self._ends[sent.partition] = sent.offset + 1
        return list(others)

    def ready(self) -> dict[str, str | int]:
        return {"memories": sum(len(part.bank) for part in self._held.values())}

    def close(self) -> None:
        if self._producer:
            self._producer.close()
            self._reader.close()

    def process(self, records: dict[Any, list[Any]]) -> Done:
        assert self._producer is not None
        batches: dict[int, list[Decision]] = {}
        letters = 0
        try:
            # Hits before facts: a fixed order among the topics of a partition.
            for partition in sorted(records, key=lambda p: (p.partition, p.topic), reverse=True):
                short = self._settings.short(partition.topic)
                if short == topics.DEAD_LETTERS:
                    letters += self._keep_letters(partition, records[partition])
                    continue
                bank = self._held[partition.partition].bank
                made = batches.setdefault(partition.partition, [])
                for record in records[partition]:
                    made += self._decide(bank, short, record)
            for number, made in batches.items():
                if made:
                    self._write(number, made)
            if others := self._flush():
                self._tell(others)
        except BaseException:
            self._held.clear()  # decided, but perhaps not written or not published: the history knows
            raise
        return Done({"decisions": sum(map(len, batches.values())), "dead_letters": letters})

    def _decide(self, bank: Bank, topic: str, record: Any) -> list[Decision]:
        assert self._producer is not None
        try:
            if topic == topics.FACT_ENCODINGS:
                rows = check_rows(record.value)
                self._check_owner(record.partition, {row["namespace"] for row in rows})
                return decide_rows(bank, rows, self._now)
            hits = decode(MemoryHits, record.value)
            self._check_owner(record.partition, {hits.namespace})
            cause = Cause(topics.MEMORY_HITS, self._topic_ids[topic], record.partition, record.offset)
            if bank.is_decided(hits.namespace, cause) or bank.is_counted(hits.namespace, hits.request_id):
                return []
            made = []
            for hit in hits.hits:
                made += bank.decide_use(
                    hits.namespace, hit.memory_id, hit.gate, hits.request_id, cause, self._now()
                )
                bank.apply(made[-1])
            return made
        except BadMessage as error:
            dead_letter(self._producer, record, error.reason, str(error), self.name, self._now())
            return []

    def _check_owner(self, partition: int, namespaces: set[str]) -> None:
        """A namespace has one partition, hence one bank: elsewhere it would be decided by what is not there."""
        for namespace in namespaces:
            if (owner := partition_for(namespace, self._partitions)) != partition:
                raise BadMessage("wrong-partition", f"the namespace {namespace!r} is of partition {owner}")

    def _write(self, number: int, made: list[Decision]) -> None:
        part = self._held[number]
        try:
            history.append(self._data, number, part.sequence + 1, made)
        except history.SequenceTaken as error:
            raise Retry(str(error)) from error
        part.sequence += 1
        part.last = made
        for _, key, value in changelog(part.bank, made):
            self._send(number, key, value)

    def _send(self, number: int, key: bytes, value: bytes | None) -> None:
        assert self._producer is not None
        self._producer.send(topics.MEMORY_CHANGELOG, value, key, number)

    def _keep_letters(self, partition: Any, records: list[Any]) -> int:
        rows = []
        for record in records:
            said = {name: (value or b"").decode("utf-8", "replace") for name, value in record.headers}
            try:
                row = {
                    "topic": said["topic"], "partition": int(said["partition"]), "offset": int(said["offset"]),
                    "reason": said["reason"], "error": said["error"], "worker": said["worker"],
                    "time": datetime.fromisoformat(said["time"]).astimezone(UTC),
                    "key": record.key, "value": record.value,
                }  # fmt: skip
            except (KeyError, ValueError, OverflowError):
                continue  # not one of ours; it stays on the topic
            if 0 <= row["partition"] < 2**31 and 0 <= row["offset"] < 2**63:
                rows.append(row)
        if rows:
            topic_id = self._topic_ids[topics.DEAD_LETTERS]
            name = f"{topic_id}-{partition.partition}-{records[0].offset}-{records[-1].offset}"
            history.append_dead_letters(self._data, rows, name)
        return len(rows)


def _fact(row: dict[str, Any], cause: Cause) -> NewFact:
    words = len(row["priors"])
    vectors = np.frombuffer(row["vectors"], np.uint8)
    encoding = Encoding(
        row["text"], row["encoder_id"], row["base_loss"], row["recall_loss"], row["loss_delta"],
        np.array(row["priors"], np.float32), np.array(row["surprisals"], np.float32),
        vectors.reshape(words, -1) if words and len(vectors) else np.zeros((words, 0), np.uint8),
    )  # fmt: skip
    return NewFact(
        row["namespace"], encoding, row["observed_at"], row["published_at"], cause, row["category"],
        row["source"], row["fact_id"], row["min_loss_delta"],
    )  # fmt: skip
