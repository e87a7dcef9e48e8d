"""Changelog of a partition: the records of decisions, and the records to repair it from the history.

The history is the truth. When the writer gets a partition, it compares the whole changelog with the history and publishes
the difference. From then on it consumes the changelog and compares each record that it did not send itself: it comes from
another client, or from a writer that stalled while it lost the partition.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from pipeline.memory.bank import Bank
from pipeline.memory.codec import memory_from_record, memory_to_record
from pipeline.memory.events import Decision
from schemas.changelog import (
    Decided,
    MemoryRecord,
    PositionRecord,
    changelog_key,
    decode_changelog,
    split_key,
)
from schemas.common import BadMessage, encode
from schemas.topics import FACTS
from workers.kafka.consumer import check_readable
from workers.kafka.partitioner import partition_for

MAX_VERDICTS = 1_000
"""Most verdicts in one position record."""
MAX_POSITIONS = 1_024
"""Most source partitions in one position record; the newest ones are kept."""
MAX_RANGES = 1_024
"""Most ranges of sent offsets that were not read back yet. Records of a dropped range count as another client's."""

Record = tuple[bytes, bytes | None]
"""Key and value; None is a tombstone."""


class SentOffsets:
    """The offsets of a changelog partition that this writer sent, and the end of the recovered records."""

    def __init__(self, recovered: int) -> None:
        """`recovered`: records at lower offsets were compared with the history when the partition was assigned."""
        self._recovered = recovered
        self._ranges: deque[range] = deque(maxlen=MAX_RANGES)

    def add(self, offset: int) -> None:
        if self._ranges and self._ranges[-1].stop == offset:
            self._ranges[-1] = range(self._ranges[-1].start, offset + 1)
        else:
            self._ranges.append(range(offset, offset + 1))

    def was_sent(self, offset: int) -> bool:
        """Whether this writer sent the record. Call it with ascending offsets: lower ones are dropped."""
        while self._ranges and self._ranges[0].stop <= offset:
            self._ranges.popleft()
        return bool(self._ranges) and offset in self._ranges[0]

    def was_recovered(self, offset: int) -> bool:
        """Whether the record was there when the partition was compared with the history."""
        return offset < self._recovered


def decision_records(
    bank: Bank, decisions: Sequence[Decision], changed: Iterable[tuple[str, str]]
) -> Iterator[Record]:
    """The records of decisions that `bank` has applied: the changed memories, then the positions.

    changed: (namespace, memory id) of each memory that the decisions added, changed or removed.
    """
    for namespace, memory_id in changed:
        key = changelog_key(namespace, memory_id)
        yield key, expected_value(bank, key)
    for namespace, verdicts in _verdicts(decisions).items():
        yield from _position_records(bank, namespace, verdicts)


def recovery_records(bank: Bank, last: Sequence[Decision], present: dict[bytes, int]) -> Iterator[Record]:
    """The records that a changelog partition lacks, and tombstones for keys that it should not have.

    `present` maps each key of the partition to the `hash` of its value; it is emptied. `last` are the decisions of the
    history's last file, whose verdicts may not have been published. Positions come last, as in `decision_records`: a
    client that waits for one finds the memories.
    """
    positions = {name: present.pop(changelog_key(name), None) for name in bank.namespaces}
    for namespace in bank.namespaces:
        for memory in bank.memories(namespace):
            key, value = changelog_key(namespace, memory.memory_id), encode(memory_to_record(memory))
            if present.pop(key, None) != hash(value):
                yield key, value
    for key in present:
        yield key, None
    verdicts = _verdicts(last)
    for namespace, present_hash in positions.items():
        records = list(_position_records(bank, namespace, verdicts.get(namespace, [])))
        if present_hash != hash(records[-1][1]):
            yield from records


def expected_value(bank: Bank, key: bytes) -> bytes | None:
    """The value of the key according to the history; None if it should have none."""
    namespace, memory_id = split_key(key)
    if key != changelog_key(namespace, memory_id):
        return None
    if not memory_id:
        return encode(_position(bank, namespace, [])) if bank.positions(namespace) else None
    memory = bank.get(namespace, memory_id)
    return encode(memory_to_record(memory)) if memory else None


def check_record(record: Any, partitions: int) -> None:
    """Raises BadMessage for a changelog record that no replica can apply."""
    check_readable(record)
    message = decode_changelog(record.key, record.value)
    if isinstance(message, MemoryRecord):
        memory_from_record(message)
    if message is not None and partition_for(message.namespace, partitions) != record.partition:
        raise BadMessage(
            "wrong-partition", f"the namespace {message.namespace!r} belongs to another partition"
        )


def _verdicts(decisions: Iterable[Decision]) -> dict[str, list[Decided]]:
    """Verdicts that a publisher may wait for, by namespace of the decision."""
    verdicts: dict[str, list[Decided]] = {}
    for d in decisions:
        own = verdicts.setdefault(d.namespace, [])
        if d.cause.topic == FACTS and d.outcome != "evicted":
            own.append(
                Decided(
                    topic_id=d.cause.topic_id, partition=d.cause.partition, offset=d.cause.offset,
                    outcome=d.outcome, memory_id=d.memory_id, loss_delta=d.loss_delta,  # type: ignore[arg-type]
                )
            )  # fmt: skip
    return verdicts


def _position_records(bank: Bank, namespace: str, verdicts: list[Decided]) -> Iterator[tuple[bytes, bytes]]:
    """The namespace's position with the verdicts, in as many records as they need, at least one."""
    for i in range(0, max(1, len(verdicts)), MAX_VERDICTS):
        yield changelog_key(namespace), encode(_position(bank, namespace, verdicts[i : i + MAX_VERDICTS]))


def _position(bank: Bank, namespace: str, verdicts: list[Decided]) -> PositionRecord:
    positions = dict(list(bank.positions(namespace).items())[-MAX_POSITIONS:])
    return PositionRecord(namespace=namespace, positions=positions, decided=verdicts)
