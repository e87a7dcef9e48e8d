"""The writer: decides each fact once, keeps the history, and publishes the memory.

The contract, for a batch of one partition: decide, append one history file, publish the changelog, flush, commit. The
history is the truth. After a crash it is folded, what it has decided is skipped, and what the changelog lacks is published.
Two writers cannot append the same file number: the later one folds anew. It consumes its changelog, too: what it has not
sent there is held against the history, and mended (`workers.write.changelog`).
Nothing on a topic is trusted, and nothing in a message may stop a writer for good: what it cannot take, or could not
publish afterwards, goes to the dead letters before it is decided.
"""

import math
import re
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from kafka import TopicPartition
from numpy.typing import NDArray

from pipeline.config import Settings
from pipeline.history import checkpoint as snapshot
from pipeline.history import compaction, erasure
from pipeline.history import log as history
from pipeline.ingest.encoding import Encoding
from pipeline.memory.bank import Bank
from pipeline.memory.events import Decision, NewFact, SourceOffset
from pipeline.text.words import terms_of
from schemas import dead_letter as dead_letter_schema
from schemas import topics
from schemas.common import BadMessage, decode, validate
from schemas.encoding import MAX_VECTOR_BYTES, decode_batch
from schemas.fact import Fact, Forget
from schemas.hits import MemoryHits
from workers.kafka.admin import standing
from workers.kafka.clients import KafkaSettings, Producer, check_readable, dead_letter, partition_for
from workers.observe import log, metrics, tracing
from workers.runtime.loop import Done, Retry
from workers.write import changelog

_LISTS = ("priors", "surprisals")
_ID = re.compile(r"[0-9A-Za-z_-]{1,64}")  # of a topic or an encoder


UNSAVED = 10_000
"""Decisions after which a snapshot is made; as many as there are memories, where these are more."""


@dataclass
class Partition:
    """What the writer holds of one partition: the fold of its history, that history's last file, and what it told of it."""

    bank: Bank
    sequence: int
    last: list[Decision]
    sent: changelog.Sent
    unsaved: int = 0  # decisions that are in no snapshot


def load(data: Path, number: int, settings: Settings) -> Partition:
    """The fold of a partition's history, from its snapshot on if it has a good one. Raises `HistoryError`."""
    kept = None
    try:
        kept = snapshot.read(data, number, settings)
    except history.HistoryError as error:  # the history has it all
        log.line("snapshot not taken", log.WARNING, reason=str(error))
    part = Partition(*(kept or snapshot.Snapshot(Bank(settings), -1, [])), changelog.Sent(0))
    for sequence, last in history.read(data, number, part.sequence):
        part.sequence, part.last = sequence, last
        for decision in last:
            part.bank.apply(decision)
        part.unsaved += len(last)
    return part


def decide_rows(bank: Bank, rows: Iterable[dict[str, Any]], now: Callable[[], datetime]) -> list[Decision]:
    """Decides rows of fact-encodings in order, applying each; those that were decided before are left out."""
    made: list[Decision] = []
    for row in rows:
        cause = SourceOffset("facts", row["topic_id"], row["partition"], row["offset"])
        if bank.is_decided(row["namespace"], cause):
            continue
        if row["kind"] != "fact":
            erase = row["kind"] == "erase"
            decisions = bank.decide_forget(row["namespace"], row["forget"], cause, now(), erase)
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
        rows: list[dict[str, Any]] = batch.drop_columns(list(_LISTS)).to_pylist()
    except (OverflowError, ValueError) as error:
        raise BadMessage("invalid-field", f"a time is out of range: {error}") from None
    lists = [_arrays(batch.column(name)) for name in _LISTS]
    finite = _finite([array for arrays in lists for array in arrays])
    for row, *arrays in zip(rows, *lists, strict=True):
        row |= zip(_LISTS, arrays, strict=True)
        if row["kind"] not in ("fact", "forget", "erase") or row["partition"] < 0 or row["offset"] < 0:
            raise BadMessage("invalid-field", "kind, partition or offset is none")
        if not (_ID.fullmatch(row["topic_id"]) and _ID.fullmatch(row["encoder_id"])):
            raise BadMessage("invalid-field", "topic_id or encoder_id is none")
        if row["kind"] != "fact":
            validate(Forget, {"forget": row["forget"], "namespace": row["namespace"]})
            continue
        optional = ("category", "source", "fact_id", "min_loss_delta")
        body = {name: row[name] for name in optional if row[name] is not None}
        validate(Fact, body | {"text": row["text"], "namespace": row["namespace"]})
        words = len(terms_of(row["text"]))
        numbers = (row["base_loss"], row["recall_loss"], row["loss_delta"])
        if not all(n is not None and math.isfinite(n) for n in numbers) or not (finite or _finite(arrays)):
            raise BadMessage("invalid-field", "a loss, a prior or a surprisal is missing or not finite")
        if any(len(array) != words for array in arrays):
            raise BadMessage("invalid-field", f"priors and surprisals do not fit the text's {words} words")
        if row["vectors"] is None or (len(row["vectors"]) % words if words else row["vectors"]):
            raise BadMessage("invalid-field", f"vectors do not fit the text's {words} words")
        if len(row["vectors"]) > MAX_VECTOR_BYTES:
            raise BadMessage("invalid-field", f"vectors of {len(row['vectors'])} bytes")
    return rows


def _arrays(column: pa.ListArray) -> list[NDArray[np.float32]]:
    """Of each row its numbers; none where there is no list, NaN where one is missing."""
    ends = np.cumsum(pc.list_value_length(column).fill_null(0).to_numpy())
    return np.split(column.flatten().to_numpy(zero_copy_only=False), ends[:-1])


def _finite(arrays: Sequence[NDArray[np.float32]]) -> bool:
    return bool(np.isfinite(np.concatenate(arrays)).all()) if arrays else True


class WriterWorker:
    name = "writer"
    topics: Sequence[str] = (
        topics.FACT_ENCODINGS, topics.MEMORY_HITS, topics.DEAD_LETTERS, topics.MEMORY_CHANGELOG
    )  # fmt: skip

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
        self._folded: dict[int, Partition] = {}  # and not told yet
        self._topic_ids: dict[str, str] = {}
        self._producer: Producer | None = None
        self._disk = ThreadPoolExecutor(1, "writer-disk")
        # Trace contexts of the batch in hand, by the causes of its decisions.
        self._traces: dict[tuple[str, int, int], str] = {}

    def load(self, alone: bool) -> None:
        """Folds what is there, if all of it will be ours."""
        for number in history.partitions(self._data) if alone else ():
            self._folded[number] = load(self._data, number, self._bank_settings)

    def start(self, consumer: Any, topic_ids: dict[str, str]) -> None:
        self._topic_ids = topic_ids
        name = self._settings.topic(topics.FACT_ENCODINGS)
        self._partitions = len(consumer.partitions_for_topic(name) or ())
        self._producer = self._settings.producer()
        self._reader = self._settings.consumer()

    def assigned(self, partitions: list[Any]) -> None:
        """Folds what is ours, unless it is held and nobody wrote since; then tells the changelog what it lacks of it."""
        told, self._held = self._held, {}  # held again only when the changelog has it
        folded, self._folded = self._folded, {}
        numbers = sorted({p.partition for p in partitions})
        anew = [n for n in numbers if n not in told or not self._is_last(n, told[n])]
        topic = self._settings.topic(topics.MEMORY_CHANGELOG)
        # Before the fold: what another writer still appends and tells is then behind `end`, and read.
        found = standing(self._reader, [TopicPartition(topic, number) for number in anew])
        for number, (stands, end) in zip(anew, found.values(), strict=True):
            part = folded.get(number)
            if part is None or not self._is_last(number, part):
                part = load(self._data, number, self._bank_settings)
            told[number] = part
            self._erase(number, part)
            self._tell(number, part, stands, end)
        self._flush(told)
        self._held = told

    def _tell(self, number: int, part: Partition, stands: dict[bytes, int], end: int) -> None:
        part.sent = changelog.Sent(end)
        for key, value in changelog.lacking(part.bank, part.last, stands):
            self._send(number, key, value)

    def _is_last(self, number: int, part: Partition) -> bool:
        return part.sequence == history.last_sequence(self._data, number)

    def revoked(self, partitions: list[Any]) -> None: ...

    def idle(self) -> None:
        for number, part in self._held.items():
            self._tidy(number, part)

    def _tidy(self, number: int, part: Partition) -> None:
        """A bounded step towards few and large files and a short start. It may fail, and is tried again later: nothing
        hangs on it."""
        try:
            compaction.step(self._data, number, time.time())
            if part.unsaved >= max(UNSAVED, len(part.bank)):
                snapshot.write(self._data, number, part.sequence, part.last, part.bank)
                part.unsaved = 0
        except history.Unwritable as error:
            log.line("not tidied", log.WARNING, reason=str(error))

    def ready(self) -> dict[str, str | int]:
        return {"memories": sum(len(part.bank) for part in self._held.values())}

    def close(self) -> None:
        self._disk.shutdown()
        if self._producer:
            self._producer.close()
            self._reader.close()

    def process(self, records: dict[Any, list[Any]]) -> Done:
        assert self._producer is not None
        batches: dict[int, list[Decision]] = {}
        overwritten: dict[tuple[int, bytes], None] = {}
        letters, since = 0, tracing.now()
        self._traces.clear()
        try:
            # Hits before facts: a fixed order among the topics of a partition.
            for partition in sorted(records, key=lambda p: (p.partition, p.topic), reverse=True):
                short, number = self._settings.short(partition.topic), partition.partition
                if short == topics.DEAD_LETTERS:
                    letters += self._keep_letters(partition, records[partition])
                elif short == topics.MEMORY_CHANGELOG:
                    for record in records[partition]:
                        if self._is_overwritten(self._held[number], record):
                            overwritten[number, record.key] = None
                else:
                    made = batches.setdefault(number, [])
                    for record in records[partition]:
                        made += self._decide(self._held[number].bank, short, record)
            for number, made in batches.items():
                if made:
                    self._write(number, made)
                    tracing.decided(made, self._traces, since)
            self._mend(overwritten)  # now that the history has what the bank has
            self._flush(self._held)
            # Twice as often as there is a new merge: so for the larger ones too.
            for number, made in batches.items():
                if made and self._held[number].sequence % (compaction.FAN // 2) == 0:
                    self._tidy(number, self._held[number])
        except BaseException:
            self._held.clear()  # decided, but perhaps not written or not published: the history knows
            raise
        return Done({"decisions": sum(map(len, batches.values())), "dead_letters": letters})

    def _flush(self, held: dict[int, Partition]) -> None:
        assert self._producer is not None
        for sent in self._producer.flush_or_raise():
            if self._settings.short(sent.topic) == topics.MEMORY_CHANGELOG:
                held[sent.partition].sent.add(sent.offset)

    def _decide(self, bank: Bank, topic: str, record: Any) -> list[Decision]:
        try:
            check_readable(record)
            if topic == topics.FACT_ENCODINGS:
                rows = check_rows(record.value)
                self._check_owner(record, {row["namespace"] for row in rows})
                for row, trace in zip(rows, tracing.of_rows(record.headers, len(rows)), strict=True):
                    if trace:
                        self._traces[row["topic_id"], row["partition"], row["offset"]] = trace
                return decide_rows(bank, rows, self._now)
            hits = decode(MemoryHits, record.value)
            self._check_owner(record, {hits.namespace})
            cause = SourceOffset(topics.MEMORY_HITS, self._topic_ids[topic], record.partition, record.offset)
            if trace := tracing.of(record.headers):
                self._traces[cause.topic_id, cause.partition, cause.offset] = trace
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
            self._refuse(record, error)
            return []

    def _is_overwritten(self, part: Partition, record: Any) -> bool:
        """Whether somebody else wrote to a key of the changelog since the partition is ours. What no replica can take goes
        to the dead letters, whenever it was written."""
        if part.sent.has(record.offset):
            return False
        try:
            changelog.check(record, self._partitions)
        except BadMessage as error:
            self._refuse(record, error)
        if record.key is None or part.sent.is_compared(record.offset):
            return False
        return bool(changelog.says(part.bank, record.key) != record.value)

    def _mend(self, overwritten: Iterable[tuple[int, bytes]]) -> None:
        for number in {number for number, _ in overwritten}:
            if not self._is_last(number, self._held[number]):
                raise Retry(f"another writer has decided facts of partition {number}")
        for number, key in overwritten:
            self._send(number, key, changelog.says(self._held[number].bank, key))

    def _refuse(self, record: Any, error: BadMessage) -> None:
        assert self._producer is not None
        dead_letter(self._producer, record, error.reason, str(error), self.name, self._now())

    def _check_owner(self, record: Any, namespaces: set[str]) -> None:
        """A namespace has one partition, hence one bank: elsewhere it would be decided by what is not there. The key,
        by which ACLs and people tell whose a record is, must not say another one."""
        for namespace in namespaces:
            if (owner := partition_for(namespace, self._partitions)) != record.partition:
                raise BadMessage("wrong-partition", f"the namespace {namespace!r} is of partition {owner}")
            if record.key is not None and record.key != namespace.encode():
                raise BadMessage("key-mismatch", f"the key is not the body's namespace {namespace!r}")

    def _write(self, number: int, made: list[Decision]) -> None:
        """Appends to the history and tells the changelog. What is to be told is put into bytes while the disk works, and
        sent when it has the file."""
        part = self._held[number]
        appended = self._disk.submit(history.append, self._data, number, part.sequence + 1, made)
        try:
            told = list(changelog.records(part.bank, made))
        finally:
            failed = appended.exception()  # waits
        if isinstance(failed, history.SequenceTaken | history.Unwritable):
            raise Retry(str(failed)) from failed
        if failed:
            raise failed
        part.sequence += 1
        part.last = made
        part.unsaved += len(made)
        metrics.decided(made)
        self._erase(number, part)
        for key, value in told:
            self._send(number, key, value)

    def _erase(self, number: int, part: Partition) -> None:
        """Carries out the erasures of the last file, again where a crash came between: no file follows one whose
        erasures are not done, and whoever waits for them is told afterwards."""
        if any(d.outcome == "erased" for d in part.last):
            try:
                erasure.erase(self._data, number, part.sequence)
            except history.Unwritable as error:
                raise Retry(str(error)) from error

    def _send(self, number: int, key: bytes, value: bytes | None) -> None:
        assert self._producer is not None
        self._producer.send(topics.MEMORY_CHANGELOG, value, key, number)

    def _keep_letters(self, partition: Any, records: list[Any]) -> int:
        """Keeps them for queries. What is no letter of a worker stands there as one about itself: it is on
        dead-letters already, and sending it there again would never end."""
        rows = [self._letter(record) for record in records]
        topic_id = self._topic_ids[topics.DEAD_LETTERS]
        name = f"{topic_id}-{partition.partition}-{records[0].offset}-{records[-1].offset}"
        try:
            history.append_dead_letters(self._data, rows, name)
        except history.Unwritable as error:
            raise Retry(str(error)) from error
        return len(rows)

    def _letter(self, record: Any) -> dict[str, Any]:
        try:
            check_readable(record)
            said = dead_letter_schema.decode_headers(record.headers)
        except BadMessage as error:
            said = {
                "topic": topics.DEAD_LETTERS, "partition": record.partition, "offset": record.offset,
                "reason": error.reason, "error": str(error)[: dead_letter_schema.MAX_ERROR_CHARS],
                "worker": self.name, "time": self._now(),
            }  # fmt: skip
        return said | {"key": record.key, "value": record.value}


def _fact(row: dict[str, Any], cause: SourceOffset) -> NewFact:
    words = len(row["priors"])
    vectors = np.frombuffer(row["vectors"], np.uint8)
    encoding = Encoding(
        row["text"], row["encoder_id"], row["base_loss"], row["recall_loss"], row["loss_delta"],
        row["priors"].copy(), row["surprisals"].copy(),
        vectors.reshape(words, -1) if words and len(vectors) else np.zeros((words, 0), np.uint8),
    )  # fmt: skip
    return NewFact(
        row["namespace"], encoding, row["observed_at"], row["published_at"], cause, row["min_loss_delta"],
        category=row["category"], source=row["source"], fact_id=row["fact_id"],
    )  # fmt: skip
