"""Fences in a bucket: removed after a day, and an owner that was silent still changes nothing."""

from pathlib import Path
from typing import Any

import pytest
from obstore.store import MemoryStore

from pipeline.history import compaction
from pipeline.history.errors import CommitConflict
from pipeline.store import manifests
from pipeline.store.bucket import Bucket
from pipeline.store.objects import ObjectStore
from tests.store.stores import LIMIT, bucket
from tests.store.test_objects import ALWAYS, compact, expected, fan, fill, names, offsets, rows  # noqa: F401

HOUR_S = 3600.0


class Clock:
    now = 1e9

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def memory() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def own(memory: MemoryStore, tmp_path: Path, clock: Clock) -> ObjectStore:
    return ObjectStore(bucket(memory), tmp_path / "one", LIMIT, clock=clock)


@pytest.fixture
def other(memory: MemoryStore, tmp_path: Path, clock: Clock) -> ObjectStore:
    return ObjectStore(bucket(memory), tmp_path / "another", LIMIT, clock=clock)


def fences(memory: MemoryStore) -> list[str]:
    return [name for name in names(memory) if name.startswith("manifest")]


def outlive(other: ObjectStore, begin: int, times: int = 3) -> int:
    """Takes the partition so often, and appends and merges each time; returns the number of versions."""
    for _ in range(times):
        other.take(0)
        other.files(0)
        fill(other, range(begin, begin + 9))
        compact(other)
        begin += 9
    return begin


@pytest.fixture
def days_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between any two requests a day passes by the store's clock."""
    monkeypatch.setattr(manifests, "KEPT_S", 0.0)


def test_manifests_stay_for_a_day(own: ObjectStore, memory: MemoryStore) -> None:
    outlive(own, 0, times=4)
    assert len(fences(memory)) >= 5, "four fences, and the one that counts"


@pytest.mark.usefixtures("days_pass")
def test_however_often_a_partition_is_taken_few_manifests_are_left(
    own: ObjectStore, memory: MemoryStore
) -> None:
    versions = outlive(own, 0, times=6)
    assert len(fences(memory)) == 1 and offsets(own) == expected(versions)


@pytest.mark.usefixtures("days_pass")
def test_who_slept_until_the_fence_after_its_own_was_gone_appends_nothing(
    own: ObjectStore, other: ObjectStore, memory: MemoryStore, clock: Clock
) -> None:
    own.take(0)
    fill(own, range(3))
    versions = outlive(other, 3)
    assert "0000000003.parquet" not in names(memory) and len(fences(memory)) == 1
    clock.now += 25 * HOUR_S
    with pytest.raises(CommitConflict, match="another writer has taken it"):
        own.append(0, 3, rows(99))
    assert not own.is_current(0, 3) and offsets(other) == expected(versions)


@pytest.mark.usefixtures("days_pass")
@pytest.mark.parametrize("slept_s", [0.0, 25 * HOUR_S])
def test_who_slept_so_long_merges_and_removes_nothing(
    own: ObjectStore, other: ObjectStore, memory: MemoryStore, clock: Clock, slept_s: float
) -> None:
    """Even if its clock stood still."""
    own.take(0)
    fill(own, range(9))
    with own.change(0) as data:
        compaction.step(data, 0, ALWAYS)
    versions = outlive(other, 9)
    kept = {name for name in names(memory) if "/" in name}
    clock.now += slept_s
    with pytest.raises(CommitConflict), own.change(0) as data:
        assert compaction.step(data, 0, ALWAYS)
    assert kept <= {*names(memory)} and offsets(own) == expected(versions)
    fill(other, range(versions, versions + 9))
    compact(other)
    assert len(fences(memory)) == 1 and offsets(own) == expected(versions + 9)


def test_an_owner_lists_its_partition_only_after_a_silence(
    own: ObjectStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = list[str]()
    objects = Bucket.objects

    def noted(self: Bucket, prefix: str) -> Any:
        listed.append(prefix)
        return objects(self, prefix)

    own.take(0)
    monkeypatch.setattr(Bucket, "objects", noted)
    for version in range(5):
        clock.now += 0.9 * HOUR_S
        own.append(0, version, rows(version))
    assert listed == []
    clock.now += 1.1 * HOUR_S
    own.append(0, 5, rows(5))
    own.append(0, 6, rows(6))
    assert listed == ["history/partition=0"]
