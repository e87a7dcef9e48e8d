"""The file of positions that were published: it survives damage, and stays small."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from workers.client import positions


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"a": 1, "b": {"id/0": "x"}}', b"\xff"])
def test_a_damaged_file_has_no_positions(tmp_path: Path, content: bytes) -> None:
    (tmp_path / positions.FILE).write_bytes(content)
    assert positions.recall(tmp_path) in ({}, {"b": {}})
    positions.remember(tmp_path, {"a": {"id/0": 1}})
    assert positions.recall(tmp_path, ["a"]) == {"a": {"id/0": 1}}


def test_a_folder_that_cannot_be_written_keeps_no_positions(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    positions.remember(tmp_path / "file", {"a": {"id/0": 1}})
    assert positions.recall(tmp_path / "file") == {}


def test_only_the_last_thousand_namespaces_are_kept(tmp_path: Path) -> None:
    for begin in (0, 600):
        positions.remember(tmp_path, {f"n{n}": {"id/0": n} for n in range(begin, begin + 600)})
    kept = positions.recall(tmp_path)
    assert list(kept) == [f"n{n}" for n in range(200, 1200)] and not list(tmp_path.glob(".*"))


def test_no_position_is_lost_between_threads(tmp_path: Path) -> None:
    def remember(number: int) -> None:
        positions.remember(tmp_path, {f"n{number}": {"id/0": number}})

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(remember, range(200)))
    assert positions.recall(tmp_path) == {f"n{n}": {"id/0": n} for n in range(200)}
