"""A history in a bucket: versions by create, changes by manifests, and who lost the partition."""

from pathlib import Path
from typing import Any

import obstore
import pytest
from obstore.store import MemoryStore

from pipeline.history import checkpoint, compaction, layout
from pipeline.history import log as history
from pipeline.history.errors import CommitConflict, HistoryError, Unwritable
from pipeline.memory.bank import Bank
from pipeline.memory.events import Decision
from pipeline.store import manifests
from pipeline.store.bucket import Bucket
from pipeline.store.folder import Folder
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
    first = sum(name.startswith("manifest") for name in names(memory))
    compact(other)
    fill(other, range(20, 30))
    compact(other)
    assert sum(name.startswith("manifest") for name in names(memory)) == first, "its own ones go at once"


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


def test_a_folder_that_is_copied_into_a_bucket_goes_on_there(
    own: ObjectStore, other: ObjectStore, memory: MemoryStore, tmp_path: Path
) -> None:
    folder = Folder(tmp_path / "folder")
    fill(folder, range(10))
    compact(folder)
    for path in (tmp_path / "folder").rglob("*.parquet"):
        obstore.put(memory, path.relative_to(tmp_path / "folder").as_posix(), path)
    own.take(0)
    own.files(0)
    fill(own, range(10, 20))
    compact(own)
    assert offsets(other) == expected(20)


def test_a_checkpoint_of_who_lost_the_partition_never_counts(own: ObjectStore, other: ObjectStore) -> None:
    own.take(0)
    fill(own, range(5))
    with own.change(0) as data:
        assert checkpoint.write(data, 0, 4, rows(4), Bank())
    with other.view(0) as data:
        assert len(checkpoint.paths(data, 0)) == 1
    other.take(0)
    with other.change(0) as data:
        checkpoint.remove(data, 0)
    with pytest.raises(CommitConflict), own.change(0) as data:
        assert checkpoint.write(data, 0, 4, rows(4), Bank())
    with own.view(0) as data:
        assert checkpoint.paths(data, 0) == [] and layout.last_version(data, 0) == 4


def test_an_append_to_a_name_that_a_merge_has_freed_does_not_count(
    own: ObjectStore, other: ObjectStore, memory: MemoryStore
) -> None:
    own.take(0)
    fill(own, range(3))
    other.take(0)
    other.files(0)
    fill(other, range(3, 12))
    compact(other)
    assert "0000000003.parquet" not in names(memory)
    with pytest.raises(CommitConflict, match="another writer has taken it"):
        own.append(0, 3, rows(99))
    assert offsets(other) == expected(12)
    fill(other, range(12, 18))
    compact(other)
    assert "0000000003.parquet" not in names(memory) and offsets(own) == expected(18)


def test_an_object_that_somebody_else_removed_is_named(
    own: ObjectStore, other: ObjectStore, memory: MemoryStore
) -> None:
    own.take(0)
    fill(own, range(9))
    compact(own)
    (merged,) = (name for name in names(memory) if name.endswith("-0000000003.parquet"))
    obstore.delete(memory, f"history/partition=0/{merged}")
    other.take(0)
    for read in (offsets, lambda store: store.files(0)):
        with pytest.raises(Unwritable, match=rf"{merged}: is missing, or .*; if it stays so, restore it"):
            read(other)


def test_what_was_not_taken_is_not_written(own: ObjectStore) -> None:
    with pytest.raises(CommitConflict, match="was not taken"):
        own.append(0, 0, rows(0))
    assert own.partitions() == [] and not own.is_current(0, -1)


def test_a_change_that_fails_is_forgotten(own: ObjectStore, other: ObjectStore) -> None:
    own.take(0)
    fill(own, range(3))
    with pytest.raises(RuntimeError), own.change(0) as data:
        layout.version_path(data, 0, 1).unlink()
        raise RuntimeError
    compact(own)
    assert offsets(other) == expected(3)
    with pytest.raises(HistoryError, match="missing"), own.change(0) as data:
        layout.version_path(data, 0, 1).unlink()
    assert offsets(other) == expected(3)


def test_of_two_who_take_a_partition_at_once_the_later_owns_it(
    own: ObjectStore, other: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = Bucket.create

    def after_another(bucket: Bucket, *args: Any) -> None:
        monkeypatch.setattr(Bucket, "create", create)
        other.take(0)
        create(bucket, *args)

    monkeypatch.setattr(Bucket, "create", after_another)
    own.take(0)
    assert own.is_current(0, -1) and not other.is_current(0, -1)
    fill(own, range(1))
    with pytest.raises(CommitConflict):
        other.append(0, 1, rows(1))


def test_who_has_just_lost_a_partition_removes_nothing_of_the_next_owner(
    own: ObjectStore, other: ObjectStore, memory: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    follow = manifests.follow
    names_of = {number: f"{number:010d}-{'a' * 32}/{'0' * 10}.parquet" for number in (1, 3)}

    def then_lose(*args: Any) -> Any:
        """The next owner takes the partition before the late one removes what does not count, and uploads."""
        followed = follow(*args)
        other.take(0)
        for name in names_of.values():
            obstore.put(memory, f"history/partition=0/{name}", b"uploaded")
        return followed

    own.take(0)
    fill(own, range(9))
    monkeypatch.setattr(manifests, "follow", then_lose)
    with pytest.raises(CommitConflict), own.change(0) as data:
        compaction.step(data, 0, ALWAYS)
    assert names_of[3] in names(memory)
    monkeypatch.setattr(manifests, "follow", follow)
    compact(other)
    assert names_of[1] not in names(memory) and offsets(own) == expected(9)
