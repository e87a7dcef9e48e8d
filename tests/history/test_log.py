"""Log of decisions: what is written is read, one writer gets a version, and damage is refused."""

import dataclasses
import errno
import os
import tempfile
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.history import compaction, layout, storage, tables
from pipeline.history import log as history
from pipeline.history.errors import CommitConflict, HistoryError
from pipeline.memory.events import Decision, SourceOffset
from schemas.dead_letter import DEAD_LETTERS
from schemas.history import BEFORE_KEYS, HISTORY

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
ARRAYS = ("priors", "surprisals", "vectors")

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
float32s = st.floats(width=32, allow_nan=False)
times = st.datetimes(
    datetime(1700, 1, 1), datetime(2200, 1, 1), timezones=st.just(timezone(timedelta(hours=5)))
)


def decision(offset: int = 0, **more: Any) -> Decision:
    return Decision("default", "skipped", SourceOffset("facts", "t", 0, offset), NOW, **more)


@st.composite
def decisions(draw: st.DrawFn) -> Decision:
    offset = draw(st.integers(0, 2**63 - 1))
    cause = SourceOffset("facts", draw(texts), draw(st.integers(0, 2**31 - 1)), offset)
    values: dict[str, Any] = {}
    for field in dataclasses.fields(Decision):
        if field.name not in (*ARRAYS, "namespace", "outcome", "cause", "decided_at"):
            kind = str(field.type)
            some = texts if "str" in kind else times if "datetime" in kind else float32s
            values[field.name] = draw(st.none() | some)
    if draw(st.booleans()):
        words, dimensions = draw(st.integers(1, 5)), draw(st.integers(0, 4))
        random = np.random.default_rng(offset)
        values["priors"] = random.random(words, np.float32)
        values["surprisals"] = random.random(words, np.float32)
        values["vectors"] = random.integers(0, 255, (words, dimensions)).astype(np.uint8)
    return Decision(draw(texts), draw(texts), cause, draw(times), **values)


def assert_same(read: list[Decision], written: list[Decision]) -> None:
    assert len(read) == len(written)
    for a, b in zip(read, written, strict=True):
        for field in dataclasses.fields(Decision):
            x, y = getattr(a, field.name), getattr(b, field.name)
            if field.name in ARRAYS and y is not None:
                assert x.dtype == y.dtype and x.shape == y.shape and (x == y).all()
            else:
                assert x == y, field.name


@given(st.lists(decisions(), max_size=4))
def test_decisions_are_read_as_they_were_written(rows: list[Decision]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = history.append(Path(folder), 3, 0, rows)
        assert path == Path(folder, "history", "partition=3", "0000000000.parquet")
        ((version, read),) = history.read(Path(folder), 3)
        assert version == 0
        assert_same(read, rows)


def test_versions_are_read_in_order_after_a_given_one(tmp_path: Path) -> None:
    for version in range(12):
        history.append(tmp_path, 0, version, [decision(version)])
    history.append(tmp_path, 11, 0, [decision()])
    history.append(tmp_path, 2, 0, [decision()])
    assert [(n, rows[0].cause.offset) for n, rows in history.read(tmp_path, 0)] == [(n, n) for n in range(12)]
    assert [n for n, _ in history.read(tmp_path, 0, after=9)] == [10, 11]
    assert list(history.read(tmp_path, 0, after=11)) == []
    assert layout.last_version(tmp_path, 0) == 11
    assert layout.partitions(tmp_path) == [0, 2, 11]


def test_an_empty_folder_has_no_history(tmp_path: Path) -> None:
    assert layout.partitions(tmp_path) == []
    assert layout.last_version(tmp_path, 0) == -1
    assert list(history.read(tmp_path, 0)) == []


def test_a_version_is_written_once(tmp_path: Path) -> None:
    path = history.append(tmp_path, 0, 0, [decision(1)])
    before = path.read_bytes()
    with pytest.raises(CommitConflict, match=path.name):
        history.append(tmp_path, 0, 0, [decision(2)])
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_a_late_writer_loses_even_if_its_temporary_file_was_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = os.link

    def rival_first(source: Path, target: Path) -> None:
        monkeypatch.setattr(os, "link", link)
        history.append(tmp_path, 0, 0, [decision(7)])
        assert not Path(source).exists()
        link(source, target)

    monkeypatch.setattr(os, "link", rival_first)
    with pytest.raises(CommitConflict):
        history.append(tmp_path, 0, 0, [decision(8)])
    assert [rows[0].cause.offset for _, rows in history.read(tmp_path, 0)] == [7]


def test_unfinished_files_are_ignored_and_removed(tmp_path: Path) -> None:
    folder = history.append(tmp_path, 0, 0, [decision()]).parent
    old, rival = folder / ".0000000001.abc.tmp", folder / ".0000000002.def.tmp"
    old.write_bytes(b"PAR1")
    rival.write_bytes(b"PAR1")
    assert layout.last_version(tmp_path, 0) == 0
    assert len(list(history.read(tmp_path, 0))) == 1
    history.append(tmp_path, 0, 1, [decision()])
    assert not old.exists()
    assert rival.exists()  # its writer may still win


def test_gaps_are_refused(tmp_path: Path) -> None:
    with pytest.raises(HistoryError, match=r"0000000001\.parquet.*no gaps"):
        history.append(tmp_path, 0, 1, [decision()])
    paths = [history.append(tmp_path, 0, n, [decision(n)]) for n in range(3)]
    paths[1].unlink()
    with pytest.raises(HistoryError, match=r"0000000001\.parquet: missing"):
        list(history.read(tmp_path, 0))


def sample(folder: Path) -> tuple[Path, list[Decision]]:
    rows = [
        decision(
            n, text=f"Fact {n} is so.", priors=np.ones(4, np.float32), vectors=np.full((4, 8), n, np.uint8)
        )
        for n in range(20)
    ]
    return history.append(folder, 0, 0, rows), rows


def test_a_truncated_file_is_refused_by_name(tmp_path: Path) -> None:
    path, _ = sample(tmp_path)
    whole = path.read_bytes()
    for size in (0, 3, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(HistoryError, match=path.name):
            list(history.read(tmp_path, 0))


def test_a_flipped_bit_in_a_page_is_refused_by_name(tmp_path: Path) -> None:
    """A bit in every column's last page is caught by the page checksums."""
    path, _ = sample(tmp_path)
    whole = path.read_bytes()
    group = pq.read_metadata(path).row_group(0)
    for i in range(group.num_columns):
        column = group.column(i)
        start = column.dictionary_page_offset or column.data_page_offset
        damaged = bytearray(whole)
        damaged[start + column.total_compressed_size - 1] ^= 16
        path.write_bytes(damaged)
        with pytest.raises(HistoryError, match=path.name):
            list(history.read(tmp_path, 0))


def test_a_newer_format_is_refused_with_advice(tmp_path: Path) -> None:
    path, _ = sample(tmp_path)
    table = pq.read_table(path, partitioning=None)
    pq.write_table(table.replace_schema_metadata({b"factstream.history": b"4"}), path)
    for refused in (lambda: list(history.read(tmp_path, 0)), lambda: storage.check_format(path)):
        with pytest.raises(HistoryError, match=rf"{path.name}: has format version 4.*upgrade"):
            refused()


@pytest.mark.parametrize("version", [b"1", b"2"])
def test_the_formats_of_before_facts_had_keys_are_read_and_merged(version: bytes, tmp_path: Path) -> None:
    path, rows = sample(tmp_path)
    table = pq.read_table(path, partitioning=None).select(BEFORE_KEYS.names)
    pq.write_table(table.replace_schema_metadata({b"factstream.history": version}), path)
    ((_, read),) = history.read(tmp_path, 0)
    assert_same(read, rows)
    history.append(tmp_path, 0, 1, rows)
    compaction.merge(layout.live_files(tmp_path, 0), 1 << 20)
    (_, first), (_, second) = history.read(tmp_path, 0)
    assert_same(first, read)
    assert_same(second, rows)


def test_a_parquet_file_of_another_program_is_refused(tmp_path: Path) -> None:
    path, _ = sample(tmp_path)
    pq.write_table(pa.table({"a": [1]}), path)
    with pytest.raises(HistoryError, match="not a file of a factstream history"):
        list(history.read(tmp_path, 0))
    pq.write_table(pa.table({"a": [1]}).replace_schema_metadata(HISTORY.metadata), path)
    with pytest.raises(HistoryError, match="other columns"):
        list(history.read(tmp_path, 0))


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_a_full_or_read_only_disk_is_an_error_with_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(handle: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(HistoryError, match=rf"0000000000\.parquet.*{os.strerror(code)}"):
        history.append(tmp_path, 0, 0, [decision()])
    assert not list(tmp_path.rglob("*.parquet")) and not list(tmp_path.rglob("*.tmp"))
    with pytest.raises(HistoryError, match=r"a\.parquet"):
        tables.append_dead_letters(tmp_path, [], "a")


def test_dead_letters_of_the_same_name_are_replaced(tmp_path: Path) -> None:
    row = {
        "topic": "facts",
        "partition": 0,
        "offset": 5,
        "reason": "empty",
        "error": "no value",
        "worker": "encoder",
        "time": NOW,
        "key": None,
        "value": b"\xff",
    }
    for _ in range(2):
        tables.append_dead_letters(tmp_path, [row], "facts-0-5")
    (path,) = (tmp_path / "dead_letters").iterdir()
    table = pq.read_table(path)
    assert table.schema.equals(DEAD_LETTERS)
    assert table.to_pylist() == [row]
    with pytest.raises(ValueError, match="not a file name"):
        tables.append_dead_letters(tmp_path, [row], "../facts")
