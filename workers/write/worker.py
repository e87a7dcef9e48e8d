"""The writer worker: decides each fact once, keeps the history, and publishes the memory.

`WriterWorker._commit` is the contract. The history is the truth: after a crash the next writer folds it, skips the facts
that are decided in it, and publishes the records that the changelog lacks. Two writers cannot append the same file: the
later one folds again. No topic is trusted, and no message can stop a writer for good: a message that is invalid, or whose
memory could not be published, goes to the dead letters before it is decided.
"""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline.config import Settings
from pipeline.history import compaction, erasure
from pipeline.history.errors import HistoryError
from pipeline.memory.events import Decision, SourceOffset
from pipeline.store.opening import store_at
from schemas import topics
from schemas.common import BadMessage, decode
from schemas.hits import MemoryHits
from workers.kafka import TopicPartition
from workers.kafka.config import KafkaSettings
from workers.kafka.consumer import check_readable
from workers.kafka.dead_letters import dead_letter
from workers.kafka.offsets import latest_by_key
from workers.kafka.producer import Producer
from workers.observe import log, metrics, tracing
from workers.runtime.worker import Done, Retry, Worker
from workers.write import changelog, dead_letters
from workers.write.changelog import SentOffsets
from workers.write.partition import Decided, Partition, decide_events, decide_hits, load, retried, tidy
from workers.write.validate import check_owner, decode_events


@dataclass
class Batch:
    """The results of one batch, by partition."""

    decided: dict[int, Decided] = field(default_factory=dict)
    overwritten: dict[int, dict[bytes, None]] = field(default_factory=dict)  # keys of the changelog, in order
    dead_letters: dict[int, list[Any]] = field(default_factory=dict)  # records, to be kept for queries
    traces: dict[SourceOffset, str] = field(default_factory=dict)  # trace context of each record
    since: int = field(default_factory=tracing.now)

    def add(self, number: int, decided: Decided) -> None:
        if decided.decisions:
            own = self.decided.setdefault(number, Decided())
            own.decisions += decided.decisions
            own.changed |= decided.changed


class WriterWorker(Worker):
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
        self._settings, self._store, self._now = settings, store_at(data), now
        self._bank_settings, self.linger_s = bank_settings or Settings(), self._store.linger_s
        self._held: dict[int, Partition] = {}
        self._loaded: dict[int, Partition] = {}  # folded before they are assigned
        self._numbers: set[int] = set()  # the partitions that it owns
        self._topic_ids: dict[str, str] = {}
        self._producer: Producer | None = None
        self._disk = ThreadPoolExecutor(1, "writer-disk")
        self._handlers = {
            topics.FACT_ENCODINGS: self._on_facts,
            topics.MEMORY_HITS: self._on_hits,
            topics.MEMORY_CHANGELOG: self._on_changelog,
            topics.DEAD_LETTERS: self._on_dead_letter,
        }

    # --- partitions ---

    def load(self, alone: bool) -> None:
        """Fold every partition, if all of them will be assigned to this worker."""
        for number in self._store.partitions() if alone else ():
            self._loaded[number] = self._take(number)

    def start(self, consumer: Any, topic_ids: dict[str, str]) -> None:
        self._topic_ids = topic_ids
        for remark in self._store.check():
            log.line("store", log.WARNING, where=self._store.where, remark=remark)
        name = self._settings.topic(topics.FACT_ENCODINGS)
        self._partitions = len(consumer.partitions_for_topic(name) or ())
        self._reader = self._settings.consumer()
        self._producer = self._settings.producer()  # last: `close` closes both if it is there

    def assigned(self, partitions: list[Any]) -> None:
        """Fold the partitions that are not held, or to which another writer has appended; then recover their changelogs."""
        held, self._held = self._held, {}  # held again only when the changelog is recovered
        loaded, self._loaded = self._loaded, {}
        numbers = sorted({p.partition for p in partitions})
        self._numbers = {*numbers}
        with retried():
            self._store.keep(numbers)
            taken = [n for n in numbers if n not in held or not self._is_current(held[n])]
        topic = self._settings.topic(topics.MEMORY_CHANGELOG)
        # Read before the fold: if another writer still publishes, its records come after `end` and are consumed.
        found = latest_by_key(self._reader, [TopicPartition(topic, number) for number in taken])
        for number, (present, end) in zip(taken, found.values(), strict=True):
            partition = loaded.get(number)
            with retried():
                if partition is None or not self._is_current(partition):
                    partition = self._take(number)
            held[number] = partition
            self._erase(partition)
            self._recover(partition, present, end)
        self._flush(held)
        self._held = held

    def _take(self, number: int) -> Partition:
        """Become the partition's owner, then fold what those before have left. Raises HistoryError."""
        self._store.take(number)
        return load(self._store.files(number), number, self._bank_settings)

    def _is_current(self, partition: Partition) -> bool:
        """Whether no other writer has appended to the history since the partition was loaded."""
        return self._store.is_current(partition.number, partition.version)

    def _recover(self, partition: Partition, present: dict[bytes, int], end: int) -> None:
        """Produce the records of the history that the changelog lacks. `present` was read up to the offset `end`."""
        partition.sent = SentOffsets(end)
        records = changelog.recovery_records(partition.bank, partition.last, present)
        self._produce(partition.number, records)

    def revoked(self, partitions: list[Any]) -> None:
        """What is held stays for now: usually most of it comes back at once."""
        self._numbers = set()

    def idle(self) -> None:
        self._held = {number: own for number, own in self._held.items() if number in self._numbers}
        with retried():
            self._store.keep(self._numbers)
        for partition in self._held.values():
            tidy(self._store, partition)

    def ready(self) -> dict[str, str | int]:
        return {"memories": sum(len(partition.bank) for partition in self._held.values())}

    def close(self) -> None:
        self._disk.shutdown()
        if self._producer:
            self._producer.close()
            self._reader.close()
        with suppress(HistoryError):
            self._store.keep(())

    # --- a batch ---

    def process(self, records: dict[Any, list[Any]]) -> Done:
        """Decide a batch and commit it. If a step of the commit fails, drops the decisions and raises Retry or KafkaError."""
        batch = Batch()
        try:
            # The order does not depend on the poll; within a partition, hits come before facts.
            for tp in sorted(records, key=lambda tp: (tp.partition, tp.topic), reverse=True):
                handle = self._handlers[self._settings.short(tp.topic)]
                for record in records[tp]:
                    try:
                        handle(batch, record)
                    except BadMessage as error:
                        self._refuse(record, error)
            self._commit(batch)
        except BaseException:
            self._held.clear()  # decisions may be applied but not appended: they are read from the history again
            raise
        for number in batch.decided:
            # Twice as often as new files can be compacted, so that larger files have a turn, too.
            if self._held[number].version % (compaction.FAN // 2) == 0:
                tidy(self._store, self._held[number])
        return Done(
            {
                "decisions": sum(len(decided.decisions) for decided in batch.decided.values()),
                "dead_letters": sum(map(len, batch.dead_letters.values())),
            }
        )

    def _commit(self, batch: Batch) -> None:
        """Make a batch durable, then public. A crash between any two steps loses nothing and decides nothing twice: the next
        writer folds the history, does steps 2 to 4 in `assigned`, and skips the facts that it has decided."""
        for letters in batch.dead_letters.values():
            self._keep(letters)
        for number, decided in batch.decided.items():
            partition = self._held[number]
            # 1. Append the decisions to the history. From here on they are the truth, even if this process ends now.
            records = self._append(partition, decided)
            self._observe(batch, decided.decisions)
            # 2. Erase the texts of erased memories, before the changelog says that they are erased.
            self._erase(partition)
            # 3. Produce the changelog: the memories that changed, then how far each namespace is decided.
            self._produce(number, records)
        # 3. The same for keys that other clients wrote, now that every decision of the bank is in the history.
        self._repair(batch)
        # 4. Flush the producer: the brokers have acknowledged the changelog and the dead letters.
        self._flush(self._held)
        # 5. Commit the offsets: the loop does that when `process` returns (`Loop.commit` in workers/runtime/loop.py).

    def _append(self, partition: Partition, decided: Decided) -> list[changelog.Record]:
        """Step 1. Returns the records of step 3, which are encoded while the disk works. Raises Retry."""
        version, decisions = partition.version + 1, decided.decisions
        appended = self._disk.submit(self._store.append, partition.number, version, decisions)
        try:
            records = list(changelog.decision_records(partition.bank, decisions, decided.changed))
        finally:
            wait([appended])
        with retried():
            appended.result()
        partition.version, partition.last = version, decisions
        partition.since_checkpoint += len(decisions)
        return records

    def _observe(self, batch: Batch, decisions: list[Decision]) -> None:
        metrics.decided(decisions)
        tracing.decided(decisions, batch.traces, batch.since)

    def _erase(self, partition: Partition) -> None:
        """Step 2. Also run on assignment: the writer of the last file may have crashed before it. Raises Retry."""
        if any(decision.outcome == "erased" for decision in partition.last):
            with retried(), self._store.change(partition.number, rows=True) as data:
                erasure.erase(data, partition.number, partition.version)

    def _produce(self, number: int, records: Iterable[changelog.Record]) -> None:
        assert self._producer is not None
        for key, value in records:
            self._producer.send(topics.MEMORY_CHANGELOG, value, key, number)

    def _repair(self, batch: Batch) -> None:
        """Produce the correct values of overwritten keys. Raises Retry if another writer has appended to the history."""
        for number, keys in batch.overwritten.items():
            partition = self._held[number]
            with retried():
                is_current = self._is_current(partition)
            if not is_current:
                raise Retry(f"another writer has decided facts of partition {number}")
            self._produce(number, [(key, changelog.expected_value(partition.bank, key)) for key in keys])

    def _flush(self, held: dict[int, Partition]) -> None:
        assert self._producer is not None
        for acknowledged in self._producer.flush_or_raise():
            partition = held.get(acknowledged.partition)  # None for one that has moved since
            if partition and self._settings.short(acknowledged.topic) == topics.MEMORY_CHANGELOG:
                partition.sent.add(acknowledged.offset)

    def _keep(self, letters: list[Any]) -> None:
        """Keep dead letters for queries. Raises Retry."""
        with retried():
            topic_id = self._topic_ids[topics.DEAD_LETTERS]
            dead_letters.keep(self._store, topic_id, letters, self.name, self._now())

    # --- one handler per topic; each raises BadMessage ---

    def _on_facts(self, batch: Batch, record: Any) -> None:
        check_readable(record)
        events = decode_events(record.value)
        check_owner(record, {event.namespace for event in events}, self._partitions)
        for event, trace in zip(events, tracing.of_rows(record.headers, len(events)), strict=True):
            if trace:
                batch.traces[event.cause] = trace
        batch.add(record.partition, decide_events(self._held[record.partition].bank, events, self._now))

    def _on_hits(self, batch: Batch, record: Any) -> None:
        check_readable(record)
        hits = decode(MemoryHits, record.value)
        check_owner(record, {hits.namespace}, self._partitions)
        topic_id = self._topic_ids[topics.MEMORY_HITS]
        cause = SourceOffset(topics.MEMORY_HITS, topic_id, record.partition, record.offset)
        if trace := tracing.of(record.headers):
            batch.traces[cause] = trace
        batch.add(record.partition, decide_hits(self._held[record.partition].bank, hits, cause, self._now))

    def _on_changelog(self, batch: Batch, record: Any) -> None:
        """Note a key that another client wrote since the partition was assigned.

        Raises BadMessage for a record that no replica can apply, whenever it was written.
        """
        partition = self._held[record.partition]
        if partition.sent.was_sent(record.offset):
            return
        is_new = record.key is not None and not partition.sent.was_recovered(record.offset)
        if is_new and changelog.expected_value(partition.bank, record.key) != record.value:
            batch.overwritten.setdefault(record.partition, {})[record.key] = None
        changelog.check_record(record, self._partitions)

    def _on_dead_letter(self, batch: Batch, record: Any) -> None:
        batch.dead_letters.setdefault(record.partition, []).append(record)

    def _refuse(self, record: Any, error: BadMessage) -> None:
        assert self._producer is not None
        dead_letter(self._producer, record, error.reason, str(error), self.name, self._now())
