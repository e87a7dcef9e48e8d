"""What a machine keeps of a bucket on its disk: nothing that would miss the erasures of others."""

from pathlib import Path

import pytest
from obstore.store import MemoryStore

from pipeline.history.layout import GENERATIONS_FOLDER
from pipeline.store import objects
from pipeline.store.objects import ObjectStore
from tests.buckets.stream import make_stream
from tests.history.test_log import decision
from tests.store.stores import LIMIT, bucket


def on_disk(folder: Path) -> set[str]:
    """The folders below a machine's copies that have Parquet files."""
    return {path.parent.name for path in (folder / "writers").rglob("*.parquet")}


def fill(store: ObjectStore, *partitions: int) -> None:
    for partition in partitions:
        store.take(partition)
        store.files(partition)
        store.append(partition, 0, [decision(partition, text="A fact.")])


def test_copies_of_a_partition_go_with_it(tmp_path: Path) -> None:
    own = ObjectStore(bucket(MemoryStore()), tmp_path, LIMIT)
    fill(own, 0, 1)
    assert on_disk(tmp_path) == {"partition=0", "partition=1"}
    own.keep([1])
    assert on_disk(tmp_path) == {"partition=1"}
    assert own.is_current(1, 0) and not own.is_current(0, 0)
    own.keep([])
    assert on_disk(tmp_path) == set()


def test_copies_that_ended_processes_left_go(tmp_path: Path) -> None:
    memory = bucket(MemoryStore())
    first, second = (ObjectStore(memory, tmp_path, LIMIT) for _ in range(2))
    fill(first, 0)
    fill(second, 1)
    assert first._lock is not None and second._lock is not None
    second._lock.release()  # as the kernel does when the process ends
    first._lock.release()
    ObjectStore(memory, tmp_path, LIMIT).take(0)
    assert on_disk(tmp_path) == {"partition=0"}, "its own is brought up to date, the other would not be"


def test_copies_of_answers_go_a_while_after_an_erasure(tmp_path: Path) -> None:
    now = [0.0]
    own = ObjectStore(bucket(MemoryStore()), tmp_path, LIMIT, clock=lambda: now[0])
    fill(own, 0)
    own.add(GENERATIONS_FOLDER, [make_stream(1, 50).answers[40]], "answer")
    with own.change(0, rows=True) as data:
        assert (data / GENERATIONS_FOLDER / "answer.parquet").exists()
    for passed, kept in ((0.0, True), (objects.ROWS_KEPT_S + 1, False)):
        now[0] += passed
        with own.change(0):
            pass
        assert (GENERATIONS_FOLDER in on_disk(tmp_path)) == kept


def test_an_erasure_that_fails_keeps_no_answers_for_long(tmp_path: Path) -> None:
    own = ObjectStore(bucket(MemoryStore()), tmp_path, LIMIT)
    fill(own, 0)
    own.add(GENERATIONS_FOLDER, [make_stream(1, 50).answers[40]], "answer")
    with pytest.raises(ZeroDivisionError), own.change(0, rows=True):
        raise ZeroDivisionError
    own.keep([])
    assert on_disk(tmp_path) == set()
