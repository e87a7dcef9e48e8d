"""A history in a bucket: versions by create, changes by manifests, and who lost the partition."""

from pathlib import Path
from typing import Any

import obstore
import pytest
from obstore.store import MemoryStore

from pipeline.history import compaction
from pipeline.history import log as history
from pipeline.history.errors import CommitConflict
from pipeline.memory.events import Decision
from pipeline.store.objects import ObjectStore
from pipeline.store.store import Store
from tests.history.test_log import decision
from tests.store.stores import bucket, store

ALWAYS = float("inf")


@pytest.fixture(autouse=True)
def fan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "FAN", 4)


@pytest.fixture
def memory() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def own(memory: MemoryStore, tmp_path: Path) -> ObjectStore:
    return store(bucket(memory), tmp_path / "one")


@pytest.fixture
def other(memory: MemoryStore, tmp_path: Path) -> ObjectStore:
    return store(bucket(memory), tmp_path / "another")


def rows(version: int, count: int = 2) -> list[Decision]:
    return [decision(10 * version + n, text=f"Fact {version}.{n}.") for n in range(count)]


def fill(own: Store, versions: range) -> None:
    for version in versions:
        own.append(0, version, rows(version))


def compact(own: Store, now: float = ALWAYS) -> None:
    more = True
    while more:
        with own.change(0) as data:
            more = compaction.step(data, 0, now)


def offsets(reader: Store) -> list[int]:
    """What a process elsewhere reads."""
    with reader.view(0) as data:
        return [row.cause.offset for _, own in history.read(data, 0) for row in own]


def expected(versions: int) -> list[int]:
    return [10 * version + n for version in range(versions) for n in range(2)]


def names(memory: Any) -> list[str]:
    return sorted(
        meta["path"].removeprefix("history/partition=0/") for meta in obstore.list(memory).collect()
    )


def test_what_one_appends_another_reads(own: ObjectStore, other: ObjectStore) -> None:
    own.take(0)
    fill(own, range(3))
    assert own.is_current(0, 2) and not own.is_current(0, 1)
    assert other.partitions() == [0]
    assert offsets(other) == expected(3)


def test_of_two_who_append_a_version_one_succeeds(own: ObjectStore, other: ObjectStore) -> None:
    own.take(0)
    fill(own, range(2))
    other.take(0)
    other.append(0, 2, rows(2))
    with pytest.raises(CommitConflict):
        own.append(0, 2, rows(7))
    assert offsets(other) == expected(3)


def test_merged_files_count_and_the_others_go(
    own: ObjectStore, other: ObjectStore, memory: MemoryStore
) -> None:
    own.take(0)
    fill(own, range(30))
    compact(own, now=0.0)
    assert "0000000000.parquet" in names(memory), "who listed it before may still read it"
    assert offsets(other) == expected(30)
    compact(own)
    assert offsets(other) == expected(30)
    assert [name for name in names(memory) if "/" not in name and name.endswith(".parquet")] == [
        "0000000028.parquet", "0000000029.parquet"
    ]  # fmt: skip
    assert sum(name.startswith("manifest") for name in names(memory)) == 2, (
        "the fence, and the one that counts"
    )
    fill(own, range(30, 33))
    assert offsets(other) == expected(33)


def test_another_owner_goes_on_from_the_merged_files(
    own: ObjectStore, other: ObjectStore, memory: MemoryStore
) -> None:
    own.take(0)
    fill(own, range(10))
    compact(own)
    other.take(0)
    assert [row.cause.offset for _, own in history.read(other.files(0), 0) for row in own] == expected(10)
    fill(other, range(10, 20))
    compact(other)
    assert offsets(own) == expected(20)
    assert sum(name.startswith("manifest") for name in names(memory)) == 3, (
        "two fences, and the one that counts"
    )


def test_a_merge_of_who_lost_the_partition_never_counts(
    own: ObjectStore, other: ObjectStore, memory: MemoryStore
) -> None:
    own.take(0)
    fill(own, range(9))
    own.files(0)
    other.take(0)
    with pytest.raises(CommitConflict), own.change(0) as data:
        assert compaction.step(data, 0, ALWAYS)
    assert offsets(other) == expected(9)
    compact(other)
    assert offsets(other) == expected(9)
    left = [name for name in names(memory) if name.endswith("-0000000003.parquet")]
    assert len(left) == 1, "what the first has uploaded is gone"
    own.take(0)
    compact(own)
    assert offsets(other) == expected(9)
