"""The replica with a fake model: which changelog records it applies, and how it refuses others."""

import json
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from kafka import TopicPartition

from pipeline.memory.bank import Bank
from pipeline.memory.record import Memory
from schemas.changelog import MemoryRecord, changelog_key
from schemas.common import encode
from workers.generate.replica import INCOMPATIBLE, NEWEST, QUIET_S, Replica
from workers.kafka.partitioner import partition_for
from workers.observe import metrics

HOME = partition_for("default", 4)
TIME = datetime(2026, 1, 1, tzinfo=UTC)
POSITION = json.dumps({"namespace": "default", "positions": {"id/0": 7}, "decided": []}).encode()


class FakeMemory:
    def __init__(self) -> None:
        self.removed: list[str] = []
        self.read: list[str] = []

    def put(self, memory: Memory) -> None:
        pass

    def read_ahead(self, texts: list[str]) -> None:
        if "broken" in texts:
            raise LookupError("no such token")
        self.read += texts

    def remove(self, namespace: str, memory_id: str) -> None:
        if memory_id == "f" * 32:
            raise ValueError("encoded by another model")
        self.removed.append(memory_id)


@pytest.fixture
def memory() -> FakeMemory:
    return FakeMemory()


@pytest.fixture
def replica(memory: FakeMemory) -> Replica:
    return Replica(memory, None, 4)  # type: ignore[arg-type]


def record(key: bytes | None, value: bytes | None, partition: int = HOME) -> Any:
    return SimpleNamespace(key=key, value=value, partition=partition)


def memory_record(memory_id: str, text: str) -> Any:
    memory = MemoryRecord(
        memory_id=memory_id, namespace="default", text=text, observed_at=TIME, learned_at=TIME, importance=0.0,
        loss_delta=1.0, encoder_id="e", priors=bytes(4), surprisals=bytes(4), vectors=bytes(1),
    )  # fmt: skip
    return record(changelog_key("default", memory_id), encode(memory))


def test_positions_and_tombstones_are_applied(replica: Replica, memory: FakeMemory) -> None:
    replica.apply(record(changelog_key("default"), POSITION))
    replica.apply(record(changelog_key("default", "b" * 32), None))
    assert replica.positions == {"default": {"id/0": 7}} and memory.removed == ["b" * 32]
    assert not replica.refused


def test_a_record_in_the_wrong_partition_changes_nothing(replica: Replica, memory: FakeMemory) -> None:
    """A tombstone there would remove a memory for good: compaction keeps one for each partition."""
    elsewhere = (HOME + 1) % 4
    replica.apply(record(changelog_key("default"), POSITION, elsewhere))
    replica.apply(record(changelog_key("default", "a" * 32), None, elsewhere))
    assert not replica.positions and not memory.removed and replica.refused == {"wrong-partition": 2}


@pytest.mark.parametrize(
    "key, value", [(b"\xff", b"{}"), (b"default/" + b"a" * 32, b"{"), (b"default/", b"7")]
)
def test_a_bad_record_does_not_stop_the_replica(replica: Replica, key: bytes, value: bytes) -> None:
    replica.apply(record(key, value))
    assert replica.refused.total() == 1 and INCOMPATIBLE not in replica.refused and not replica.positions


def test_each_reason_is_logged_once_and_every_record_is_counted(
    replica: Replica, caplog: pytest.LogCaptureFixture
) -> None:
    counter = metrics.REFUSED.labels(INCOMPATIBLE)
    before = counter._value.get()
    with caplog.at_level("INFO", "factstream"):
        for _ in range(3):
            replica.apply(record(changelog_key("default", "f" * 32), None))
        replica.apply(record(changelog_key("default", "a" * 32), b"{"))
    assert replica.refused[INCOMPATIBLE] == 3 and counter._value.get() == before + 3
    assert [log.getMessage() for log in caplog.records] == ["memory not loaded"] * 2


def test_the_newest_memories_are_read_ahead_once_no_more_come(
    replica: Replica, memory: FakeMemory, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = 100.0
    monkeypatch.setattr("workers.generate.replica.time", SimpleNamespace(monotonic=lambda: now))
    for n in range(70):
        replica.apply(memory_record(f"{n:032x}", f"fact{n}"))
    replica.read_ahead()
    assert memory.read == [], "others may follow, and need the processor"
    now += QUIET_S + 0.1
    replica.read_ahead()
    assert memory.read == ["fact69", "fact68"]
    while replica.newest:
        replica.read_ahead()
    assert len(memory.read) == NEWEST
    replica.apply(memory_record("e" * 32, "broken"))
    now += QUIET_S + 0.1
    with caplog.at_level("INFO", "factstream"):
        replica.read_ahead()
    assert [log.getMessage() for log in caplog.records] == ["not read ahead"] and not replica.newest


def test_following_other_partitions_frees_the_memories_of_the_first(replica: Replica) -> None:
    spaces = {partition_for(name, 4): name for name in map(str, range(99))}
    bank = Bank()
    for name in spaces.values():
        bank.restore(name, {}, (), (), ())
    replica.lm = SimpleNamespace(bank=bank)  # type: ignore[assignment]
    replica.positions = {name: {"id/0": 1} for name in spaces.values()}
    consumer = replica.consumer = Consumer()
    replica.follow([0, 1, 2, 3])
    assert replica.loading == {0, 1, 2, 3} and set(bank.namespaces) == set(spaces.values())
    replica.loading = {1, 2}
    replica.follow([3, 1])
    assert set(bank.namespaces) == set(replica.positions) == {spaces[1], spaces[3]}
    assert consumer.numbers() == {1, 3} and replica.loading == {1}
    replica.follow([1, 2])
    assert consumer.sought == [[0, 1, 2, 3], [2]], "what is followed already goes on where it is"
    replica.follow([])
    assert not bank.namespaces and not consumer.numbers() and not replica.loading
    assert replica.catch_up(0.0), "without partitions there is nothing to read"


def test_a_partition_is_loaded_once_it_was_read_to_its_end(replica: Replica) -> None:
    consumer = replica.consumer = Consumer()
    replica.follow([0, 1])
    consumer.ends, consumer.at = {0: 5, 1: 2}, {0: 3, 1: 2}
    assert not replica.catch_up(0.0) and replica.loading == {0}
    consumer.at, consumer.ends = {0: 5, 1: 2}, {0: 5, 1: 9}
    assert not replica.catch_up(0.0) and not replica.loading, "it is behind, and no longer loading"


def test_an_empty_partition_is_not_waited_for(replica: Replica) -> None:
    consumer = replica.consumer = Consumer()
    consumer.empty = {0, 2}
    replica.follow([0, 1, 2])
    assert replica.loading == {1} and consumer.numbers() == {0, 1, 2}


class Consumer:
    """The client's part that the replica uses, without a broker."""

    def __init__(self) -> None:
        self.owned, self.sought, self.empty = set[TopicPartition](), list[list[int]](), set[int]()
        self.ends, self.at = dict[int, int](), dict[int, int]()

    def numbers(self) -> set[int]:
        return {tp.partition for tp in self.owned}

    def assignment(self) -> set[TopicPartition]:
        return self.owned

    def assign(self, partitions: list[TopicPartition]) -> None:
        self.owned = set(partitions)

    def seek_to_beginning(self, *partitions: TopicPartition) -> None:
        self.sought.append(sorted(tp.partition for tp in partitions))

    def partitions_for_topic(self, topic: str) -> set[int]:
        return {0, 1, 2, 3}

    def beginning_offsets(self, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
        return dict.fromkeys(partitions, 7)

    def end_offsets(self, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
        return {tp: 7 if tp.partition in self.empty else 8 for tp in partitions}

    def poll(self, timeout_ms: int) -> dict[TopicPartition, list[Any]]:
        return {}

    def highwater(self, tp: TopicPartition) -> int:
        return self.ends[tp.partition]

    def position(self, tp: TopicPartition, timeout_ms: int) -> int:
        return self.at[tp.partition]
