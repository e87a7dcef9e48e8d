"""Files of unread records: on a full disk, damaged, and cut off."""

import errno
import os
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from schemas.topics import FACTS
from tests.runtime.stack.local_up import WAITS, Up
from tests.runtime.stack.test_unread import records, send
from workers.runtime.stack import local_stack, unread


def test_a_full_disk_is_waited_for(
    up: Callable[..., Up], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[Path] = []
    write = unread._write

    def full(path: Path, *rest: Any) -> None:
        tries.append(path)
        if len(tries) < 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        write(path, *rest)

    monkeypatch.setattr(unread, "_write", full)
    running = up({"encoder": WAITS}, drain_s=0.1)
    running.until_ready()
    send(running.settings, FACTS, 5)
    running.end()
    assert running.error is None and len(tries) >= 3 and len(unread.files(running.data)) == 1
    waiting = [r.__dict__["fields"]["reason"] for r in caplog.records if r.getMessage() == "not kept yet"]
    assert len(waiting) == 2 and "No space left" in waiting[0] and "check the space" in waiting[0]


def test_a_disk_that_stays_full_is_an_error_of_up(
    up: Callable[..., Up], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, *_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    running = up({"encoder": WAITS}, drain_s=0.1)
    running.until_ready()
    send(running.settings, FACTS, 5)
    monkeypatch.setattr(unread, "_write", full)
    monkeypatch.setattr(local_stack, "KEEP_TIMEOUT_S", 0.5)
    running.end()
    assert isinstance(running.error, local_stack.StackError)
    assert "No space left" in str(running.error) and "lost" in str(running.error)
    assert not list((running.data / unread.FOLDER).glob("*"))


def test_a_damaged_file_is_set_aside_with_a_clear_line(
    up: Callable[..., Up], caplog: pytest.LogCaptureFixture
) -> None:
    first = up({"encoder": WAITS}, drain_s=0.1)
    first.until_ready()
    send(first.settings, FACTS, 50)
    first.end()
    (path,) = unread.files(first.data)
    content = bytearray(path.read_bytes())
    content[len(content) // 4] ^= 0xFF
    path.write_bytes(content)
    second = up({"encoder": WAITS}, drain_s=0.1)
    second.until_ready()
    assert records(second.settings, FACTS) == {}
    (aside,) = unread.damaged(second.data)
    assert aside.read_bytes() == bytes(content) and not path.exists()
    (line,) = [r.__dict__["fields"] for r in caplog.records if r.getMessage() == "not published again"]
    assert line["file"] == str(aside) and "facts.jsonl.gz is damaged" in line["reason"]
    second.end()
    assert second.error is None


def test_a_flipped_bit_is_found_or_changes_nothing(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {
            "partition": n % 4, "offset": n, "timestamp": n, "key": None, "value": b"value %d" % n,
            "headers": [("n", b"%d" % n)],
        }
        for n in range(300)
    ]  # fmt: skip
    path = tmp_path / unread.FOLDER / f"facts{unread.SUFFIX}"
    unread._write(
        path,
        [
            row | {"value": unread._text(row["value"]), "headers": [("n", unread._text(b"%d" % n))]}
            for n, row in enumerate(rows)
        ],
    )
    whole, found = path.read_bytes(), 0
    cut = [whole[:length] for length in range(0, len(whole), 50)]
    for content in chain(map(flipped(whole), range(0, len(whole), 7)), cut):
        path.write_bytes(content)
        if unread._is_readable(path):
            assert list(unread._rows(path)) == rows
        else:
            (aside,) = unread.damaged(tmp_path)
            aside.unlink()
            found += 1
    assert found > len(cut)


def flipped(content: bytes) -> Callable[[int], bytes]:
    """Makes the content with one bit of a byte flipped."""

    def flip(place: int) -> bytes:
        return content[:place] + bytes([content[place] ^ 1 << place % 8]) + content[place + 1 :]

    return flip
