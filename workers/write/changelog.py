"""What the changelog must say: the records of decisions, what a partition lacks of its history, and what others wrote.

It knows the bank and the format of the records, and nothing of brokers and files: the writer reads, sends and flushes. The
history is the truth. A partition that is taken is compared with it as a whole, and from there on each record that the
writer has not sent itself is held against it: a stranger's, or that of a writer that slept while it lost the partition.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from pipeline.memory.bank import Bank
from pipeline.memory.codec import memory_from_record, memory_to_record
from pipeline.memory.events import Decision
from schemas.changelog import Decided, MemoryRecord, PositionRecord, changelog_key, decode_changelog
from schemas.common import BadMessage, encode
from workers.kafka.clients import check_readable, partition_for

TOLD = 1_000  # verdicts in one position record
POSITIONS = 1_024  # logs in one position record: the newest, should a namespace have been fed from more
RUNS = (
    1_024  # of offsets of ours not read back yet; records of a run that is forgotten count as somebody else's
)

Record = tuple[bytes, bytes | None]
"""Key and value; None is a tombstone."""


class Sent:
    """Which offsets of a partition are ours. It is read from `compared`, where it said what the history says."""

    def __init__(self, compared: int) -> None:
        self._compared = compared
        self._runs: deque[range] = deque(maxlen=RUNS)

    def add(self, offset: int) -> None:
        if self._runs and self._runs[-1].stop == offset:
            self._runs[-1] = range(self._runs[-1].start, offset + 1)
        else:
            self._runs.append(range(offset, offset + 1))

    def has(self, offset: int) -> bool:
        """Whether we sent it. Offsets are asked for in order: what is before them is forgotten."""
        while self._runs and self._runs[0].stop <= offset:
            self._runs.popleft()
        return bool(self._runs) and offset in self._runs[0]

    def is_compared(self, offset: int) -> bool:
        """Whether it was there when the partition was compared with the history."""
        return offset < self._compared


def records(bank: Bank, decisions: Sequence[Decision]) -> Iterator[Record]:
    """What tells a replica, and whoever waits, what was decided: the memories first, then how far it is decided."""
    touched: dict[tuple[str, str], None] = {}
    for d in decisions:
        for memory_id in (d.memory_id, d.nearest if d.outcome == "superseded" else None):
            if memory_id and d.outcome not in ("outdated", "duplicate", "skipped"):
                touched[d.namespace, memory_id] = None
    for namespace, memory_id in touched:
        key = changelog_key(namespace, memory_id)
        yield key, says(bank, key)
    for namespace, verdicts in _verdicts(decisions).items():
        yield from _positions(bank, namespace, verdicts)


def lacking(bank: Bank, last: Sequence[Decision], stands: dict[bytes, int]) -> Iterator[Record]:
    """What a partition lacks of its history, and tombstones for what is no more.

    `stands` is what stands there, key to the `hash` of its value; it is used up. `last` are the decisions of the last
    file, whose verdicts may not have been told. The positions come last, as always: who waits for them has the memories.
    """
    positions = {name: stands.pop(changelog_key(name), None) for name in bank.namespaces}
    for namespace in bank.namespaces:
        for memory in bank.memories(namespace):
            key, value = changelog_key(namespace, memory.memory_id), encode(memory_to_record(memory))
            if stands.pop(key, None) != hash(value):
                yield key, value
    for key in stands:
        yield key, None
    verdicts = _verdicts(last)
    for namespace, stood in positions.items():
        told = list(_positions(bank, namespace, verdicts.get(namespace, [])))
        if stood != hash(told[-1][1]):
            yield from told


def says(bank: Bank, key: bytes) -> bytes | None:
    """The value that the key has by the history; None where it should have none."""
    namespace, _, memory_id = key.decode("utf-8", "replace").partition("/")
    if key != changelog_key(namespace, memory_id):
        return None
    if not memory_id:
        return encode(_position(bank, namespace, [])) if bank.positions(namespace) else None
    memory = bank.get(namespace, memory_id)
    return encode(memory_to_record(memory)) if memory else None


def check(record: Any, partitions: int) -> None:
    """Raises BadMessage for what no replica can take."""
    check_readable(record)
    told = decode_changelog(record.key, record.value)
    if isinstance(told, MemoryRecord):
        memory_from_record(told)
    if told is not None and partition_for(told.namespace, partitions) != record.partition:
        raise BadMessage("wrong-partition", f"the namespace {told.namespace!r} is of another partition")


def _verdicts(decisions: Iterable[Decision]) -> dict[str, list[Decided]]:
    """Those that somebody may wait for, of each namespace of which something was decided."""
    verdicts: dict[str, list[Decided]] = {}
    for d in decisions:
        of = verdicts.setdefault(d.namespace, [])
        if d.cause.topic == "facts" and d.outcome != "evicted":
            of.append(
                Decided(
                    topic_id=d.cause.topic_id, partition=d.cause.partition, offset=d.cause.offset,
                    outcome=d.outcome, memory_id=d.memory_id, loss_delta=d.loss_delta,  # type: ignore[arg-type]
                )
            )  # fmt: skip
    return verdicts


def _positions(bank: Bank, namespace: str, verdicts: list[Decided]) -> Iterator[tuple[bytes, bytes]]:
    """The namespace's position with the verdicts, in as many records as they need; one at least."""
    for i in range(0, max(1, len(verdicts)), TOLD):
        yield changelog_key(namespace), encode(_position(bank, namespace, verdicts[i : i + TOLD]))


def _position(bank: Bank, namespace: str, verdicts: list[Decided]) -> PositionRecord:
    positions = dict(list(bank.positions(namespace).items())[-POSITIONS:])
    return PositionRecord(namespace=namespace, positions=positions, decided=verdicts)
