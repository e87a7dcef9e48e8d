"""Compaction: few files with the same rows, each of them once, whenever a process is killed."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from pipeline.history import compaction, layout, storage
from pipeline.history import log as history
from pipeline.history.errors import CommitConflict, HistoryError, Unwritable
from pipeline.memory.bank import fold
from pipeline.memory.events import Decision
from pipeline.query import run as query
from tests.history.test_erasure import FACTS, fact_message, files_with_text, request
from tests.history.test_log import assert_same, decision
from tests.write.local_writer import HOME, agree, batch, decided, take, writer

NEVER, ALWAYS = 0.0, float("inf")
"""Moments at which nothing that was merged is old enough to be removed, and all of it is."""


@pytest.fixture(autouse=True)
def fan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "FAN", 4)


def fill(data: Path, batches: list[int], offset: int = 0) -> list[list[Decision]]:
    written = []
    for version, count in enumerate(batches):
        rows = [decision(offset + n, text=f"Fact {offset + n}.") for n in range(count)]
        history.append(data, 0, version, rows)
        offset += count
        written.append(rows)
    return written


def compact(data: Path, now: float = ALWAYS, partition: int = 0) -> None:
    while compaction.step(data, partition, now):
        pass


def read(data: Path) -> list[int]:
    return [row.cause.offset for _, rows in history.read(data, 0) for row in rows]


def queried(data: Path) -> list[int]:
    table = query.run(data, 'SELECT "offset" FROM history ORDER BY history_position')
    return [int(row["offset"]) for row in table.to_pylist()]


@examples(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=60),
    st.sets(st.integers(0, 60)),
    st.sampled_from([NEVER, ALWAYS]),
)
def test_rows_and_versions_stay_and_files_become_few(
    tmp_path_factory: pytest.TempPathFactory, batches: list[int], steps: set[int], now: float
) -> None:
    data, written = tmp_path_factory.mktemp("data"), []
    for version, count in enumerate(batches):
        rows = [decision(100 * version + n, text=f"Fact {n}.") for n in range(count)]
        history.append(data, 0, version, rows)
        written.append(rows)
        if version in steps:
            compaction.step(data, 0, now)
    compact(data, now)
    for after in (-1, len(batches) // 2, len(batches) - 1):
        found = list(history.read(data, 0, after))
        assert [version for version, _ in found] == list(range(after + 1, len(batches)))
        for version, rows in found:
            assert_same(rows, written[version])
    if any(batches):
        assert queried(data) == [row.cause.offset for rows in written for row in rows]
    parts = layout.live_files(data, 0)
    assert parts[-1].first == parts[-1].last == len(batches) - 1  # the last one stays by itself
    for size in range(4):
        assert sum(compaction._tier(part) == size for part in parts[:-1]) < compaction.FAN
    if now == ALWAYS:
        assert layout.replaced_files(data, 0) == []
        assert sorted(data.rglob("*.parquet")) == sorted(part.path for part in parts)


def test_large_files_are_not_merged_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "LARGE_BYTES", 1)
    fill(tmp_path, [1] * 20)
    compact(tmp_path)
    assert len(layout.live_files(tmp_path, 0)) == 20


class Killed(BaseException):
    """Not to be caught by anything that a process which was killed would not do either."""


STEPS: list[tuple[Any, str]] = [
    (os, "fsync"),
    (os, "replace"),
    (Path, "unlink"),
    (compaction, "merge"),
    (storage, "read_table"),
]


@pytest.mark.parametrize("owner, name", STEPS, ids=[name for _, name in STEPS])
def test_a_kill_at_any_step_loses_and_repeats_nothing(
    owner: Any, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, died = getattr(owner, name), 0
    for step in range(60):
        data = tmp_path / str(step)
        rows = [row.cause.offset for batch in fill(data, [2, 0, 1, 3, 1, 1, 2, 1, 1, 5]) for row in batch]
        count = iter(range(1000))

        def killed(*args: Any, step: int = step, count: Iterator[int] = count, **more: Any) -> Any:
            if next(count) >= step:
                raise Killed
            return real(*args, **more)

        monkeypatch.setattr(owner, name, killed)
        try:
            compact(data)
            monkeypatch.setattr(owner, name, real)
            break
        except Killed:
            died += 1
        monkeypatch.setattr(owner, name, real)
        assert read(data) == queried(data) == rows
        history.append(data, 0, 10, [decision(77)])
        compact(data)
        assert read(data) == queried(data) == [*rows, 77]
        assert not list(data.rglob("*.tmp")) and not layout.replaced_files(data, 0)
    assert died >= 2


def test_readers_see_each_row_once_while_files_are_merged_and_removed(tmp_path: Path) -> None:
    """Removed at once here, which a reader that listed them must bear."""
    over, failures = threading.Event(), list[BaseException]()
    history.append(tmp_path, 0, 0, [decision(0)])

    def reading(look: Callable[[Path], list[int]]) -> None:
        try:
            while not over.is_set():
                seen = look(tmp_path)
                assert seen == list(range(len(seen)))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=reading, args=(look,)) for look in (read, read, queried)]
    for thread in threads:
        thread.start()
    end, version = time.monotonic() + 5, 0
    while time.monotonic() < end and not failures:
        version += 1
        history.append(tmp_path, 0, version, [decision(version)])
        compaction.step(tmp_path, 0, ALWAYS if version % 16 == 0 else NEVER)
    over.set()
    for thread in threads:
        thread.join()
    assert not failures, failures
    assert read(tmp_path) == list(range(version + 1)) and version > 20


def test_a_version_that_was_merged_cannot_be_written_again(tmp_path: Path) -> None:
    fill(tmp_path, [1] * 9)
    compact(tmp_path)
    before = read(tmp_path)
    for version in (3, 4, 5, 6, 7):
        with pytest.raises(CommitConflict):
            history.append(tmp_path, 0, version, [decision(99)])
    assert read(tmp_path) == queried(tmp_path) == before
    # It died between giving its file the name and looking whether that was merged: nobody counts the file.
    leftover = layout.live_files(tmp_path, 0)[0].path.with_name("0000000003.parquet")
    leftover.write_bytes(layout.live_files(tmp_path, 0)[-1].path.read_bytes())
    assert read(tmp_path) == queried(tmp_path) == before
    compact(tmp_path)
    assert not leftover.exists() and read(tmp_path) == before


def test_only_one_process_merges_at_a_time(tmp_path: Path) -> None:
    fill(tmp_path, [1] * 9)
    with storage.locked(tmp_path / "history" / "partition=0"), pytest.raises(Unwritable):
        compaction.step(tmp_path, 0, ALWAYS)
    compact(tmp_path)
    assert read(tmp_path) == list(range(9))


def test_a_flipped_bit_is_refused_by_name_and_not_merged(tmp_path: Path) -> None:
    fill(tmp_path, [50] * 5)
    small = layout.live_files(tmp_path, 0)[1].path
    whole = small.read_bytes()
    flip(small)
    with pytest.raises(HistoryError, match=small.name):
        compaction.step(tmp_path, 0, NEVER)
    assert [part.path.name for part in layout.live_files(tmp_path, 0)][1] == small.name
    small.write_bytes(whole)
    compact(tmp_path)
    merged = layout.live_files(tmp_path, 0)[0].path
    assert merged.name == "0000000000-0000000003.parquet"
    flip(merged)
    with pytest.raises(HistoryError, match=merged.name):
        read(tmp_path)


def flip(path: Path) -> None:
    raw, group = bytearray(path.read_bytes()), pq.read_metadata(path).row_group(0)
    column = group.column(group.num_columns - 4)  # offset
    start = column.dictionary_page_offset or column.data_page_offset
    raw[start + column.total_compressed_size - 1] ^= 16
    path.write_bytes(raw)


def test_a_merged_file_that_lacks_rows_is_refused(tmp_path: Path) -> None:
    fill(tmp_path, [2] * 5)
    compact(tmp_path)
    merged = layout.live_files(tmp_path, 0)[0].path
    pq.write_table(storage.read_table(merged).slice(0, 7), merged)
    with pytest.raises(HistoryError, match=rf"{merged.name}.*rows are not theirs"):
        read(tmp_path)
    merged.unlink()
    with pytest.raises(HistoryError, match=r"0000000000\.parquet: missing"):
        read(tmp_path)


def test_an_erasure_reaches_merged_and_replaced_files(tmp_path: Path) -> None:
    worker, sent = writer(tmp_path)
    for offset, text in enumerate(FACTS * 2):
        worker.process(batch(fact_message(offset, text), start=offset))
    compact(tmp_path, NEVER, HOME)
    assert len(layout.replaced_files(tmp_path, HOME)) >= 8 and len(files_with_text(tmp_path)) > 4
    before = [(d.outcome, d.cause) for d in decided(tmp_path)]
    count = len(before)
    worker.process(batch(request("erase", count), start=count))
    assert files_with_text(tmp_path) == []
    assert [(d.outcome, d.cause) for d in decided(tmp_path)][:count] == before
    assert fold(decided(tmp_path)).digest() == worker._held[HOME].bank.digest()
    for offset in range(count + 1, count + 20):
        worker.process(batch(fact_message(offset, f"The lamp {offset} is old."), start=offset))
    compact(tmp_path, ALWAYS, HOME)  # what was erased is merged once more
    assert fold(decided(tmp_path)).digest() == worker._held[HOME].bank.digest()
    take(worker)
    agree(sent, tmp_path)


def test_the_writer_merges_between_batches_and_when_idle(tmp_path: Path) -> None:
    worker, sent = writer(tmp_path)
    for offset in range(60):
        worker.process(batch(fact_message(offset, f"The lamp {offset} is old."), start=offset))
    assert len(layout.live_files(tmp_path, HOME)) < 16
    for _ in range(20):
        worker.idle()
    assert len(layout.live_files(tmp_path, HOME)) <= 10
    other, _ = writer(tmp_path, worker._settings)  # type: ignore[arg-type]
    assert (
        other._held[HOME].bank.digest()
        == worker._held[HOME].bank.digest()
        == fold(decided(tmp_path)).digest()
    )
    agree(sent, tmp_path)
