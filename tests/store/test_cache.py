"""The cache of readers: it has what the store has now, and no more than its size."""

from pathlib import Path

import pytest
from obstore.store import MemoryStore

from pipeline.history import layout
from pipeline.history.errors import HistoryError
from pipeline.store.objects import ObjectStore
from tests.history.test_log import decision
from tests.store.stores import bucket, store


@pytest.fixture
def memory(tmp_path: Path) -> MemoryStore:
    """Three partitions, each of two versions."""
    memory = MemoryStore()
    own = store(bucket(memory), tmp_path / "writer")
    for partition in range(3):
        own.take(partition)
        for version in range(2):
            own.append(partition, version, [decision(version)])
    return memory


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*.parquet"))


def reader(memory: MemoryStore, folder: Path, limit_bytes: int = 1 << 30) -> ObjectStore:
    return store(bucket(memory), folder, limit_bytes)


def test_all_partitions_or_one_are_copied(memory: MemoryStore, tmp_path: Path) -> None:
    own = reader(memory, tmp_path / "one")
    with own.view(1) as data:
        assert layout.partitions(data) == [1] and layout.last_version(data, 1) == 1
    with own.view() as data:
        assert layout.partitions(data) == [0, 1, 2]


def test_what_was_copied_is_not_copied_again(memory: MemoryStore, tmp_path: Path) -> None:
    own = reader(memory, tmp_path / "one")
    with own.view() as data:
        before = {path: path.stat().st_ino for path in data.rglob("*.parquet")}
    writer = store(bucket(memory), tmp_path / "writer")
    writer.take(0)
    writer.append(0, 2, [decision(2)])
    with own.view() as data:
        after = {path: path.stat().st_ino for path in data.rglob("*.parquet")}
    assert len(before) == 6 and len(after) == 7 and before.items() <= after.items()


def test_a_copy_that_a_power_cut_has_left_empty_is_copied_again(memory: MemoryStore, tmp_path: Path) -> None:
    own = reader(memory, tmp_path / "one")
    with own.view(1) as data:
        path = layout.version_path(data, 1, 0)
        whole = path.read_bytes()
    path.write_bytes(b"")
    with own.view(1):
        assert path.read_bytes() == whole


def test_the_partitions_that_were_read_longest_ago_make_room(memory: MemoryStore, tmp_path: Path) -> None:
    with reader(memory, tmp_path / "all").view() as data:
        one = size(data) // 3
    own = reader(memory, tmp_path / "small", limit_bytes=int(2.9 * one))
    for partition in (0, 1, 2):
        with own.view(partition) as data:
            assert layout.last_version(data, partition) == 1 and size(data) <= 2.9 * one
    assert layout.partitions(tmp_path / "small") == [1, 2]
    with pytest.raises(HistoryError, match="raise FACTSTREAM_STORE_CACHE_MB"), own.view():
        pass


def test_what_belongs_to_the_machine_alone_makes_no_room(memory: MemoryStore, tmp_path: Path) -> None:
    """Above all what the embedded broker acknowledged and no worker has read: no other place has it."""
    with reader(memory, tmp_path / "all").view() as data:
        one = size(data) // 3
    small = tmp_path / "small"
    kept = [
        small / name for name in ("unread/facts.jsonl.gz", "logs/writer.log", "published.json", "up.lock")
    ]
    for path in kept:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * 4 * one)
    own = reader(memory, small, limit_bytes=int(1.5 * one))
    for partition in (0, 1, 2):
        with own.view(partition):
            pass
    own.keep([])
    assert layout.partitions(small) == [2] and all(path.stat().st_size == 4 * one for path in kept)


def test_another_bucket_under_the_same_name_is_copied_anew(memory: MemoryStore, tmp_path: Path) -> None:
    with reader(memory, tmp_path / "one").view(0) as data:
        assert layout.last_version(data, 0) == 1
    again = MemoryStore()
    writer = store(bucket(again), tmp_path / "writer of another")
    writer.take(0)
    writer.append(0, 0, [decision(7, text="another history")])
    with reader(again, tmp_path / "one").view(0) as data:
        assert layout.last_version(data, 0) == 0
        assert b"another history" in layout.version_path(data, 0, 0).read_bytes()
