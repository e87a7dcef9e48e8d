"""Files that appear whole or not at all, and locks that other processes hold."""

import errno
import fcntl
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pipeline.files import Locked, atomic_file, is_locked, locked, make_folder

HOLD = "import sys, fcntl, time; f = open(sys.argv[1], 'a'); fcntl.flock(f, fcntl.LOCK_EX); print(1, flush=True); time.sleep(60)"


def test_a_file_appears_when_it_is_complete_and_replaces_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "a.json"
    with atomic_file(path) as file:
        file.write(b"first")
        assert not path.exists()
    with atomic_file(path, durable=False) as file:
        file.write(b"second")
        file.flush()
        assert path.read_bytes() == b"first"
    assert path.read_bytes() == b"second" and os.listdir(path.parent) == ["a.json"]


def test_an_error_while_writing_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), atomic_file(path) as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["a.json"]


def test_a_disk_error_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(handle: int) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "fsync", refuse)
    for path in (tmp_path / "a.json", tmp_path / "folder" / "a.json"):
        with pytest.raises(OSError, match="full"), atomic_file(path) as file:
            file.write(b"new")
        assert os.listdir(tmp_path) == []


def test_an_exclusive_file_never_replaces_another(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with atomic_file(path, exclusive=True) as file:
        file.write(b"first")
    with pytest.raises(FileExistsError), atomic_file(path, exclusive=True) as file:
        file.write(b"second")
    assert path.read_bytes() == b"first" and os.listdir(tmp_path) == ["a.json"]


def test_the_names_of_new_folders_are_made_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced, real = list[str](), os.fsync

    def record(handle: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{handle}"))
        real(handle)

    monkeypatch.setattr(os, "fsync", record)
    make_folder(tmp_path / "a" / "b")
    assert synced == [str(tmp_path), str(tmp_path / "a")]
    make_folder(tmp_path / "a" / "b")
    assert len(synced) == 2


def test_a_lock_is_refused_while_another_program_holds_it_by_flock(tmp_path: Path) -> None:
    path = tmp_path / "up.lock"
    path.write_text("1234\n")
    with subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout and holder.stdout.readline()
        assert is_locked(path)
        begin = time.monotonic()
        with pytest.raises(Locked, match=r"up\.lock"), locked(path, timeout_s=0):
            pass
        assert time.monotonic() - begin < 2
        assert path.read_text() == "1234\n"  # what the holder wrote stays
        holder.kill()
    assert not is_locked(path)  # the lock ends with its process, however that ends
    with locked(path, timeout_s=0):
        assert is_locked(path)


def test_a_held_lock_stops_programs_that_use_flock(tmp_path: Path) -> None:
    path = tmp_path / "folder" / ".lock"
    with locked(path), path.open() as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with path.open() as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_lock_waits_for_a_thread_that_holds_it(tmp_path: Path) -> None:
    path, order = tmp_path / ".lock", list[str]()

    def second() -> None:
        with locked(path):
            order.append("second")

    with locked(path):
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(0.2)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]


def test_a_lock_is_released_after_an_error(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    with pytest.raises(ValueError, match="inside"), locked(path):
        raise ValueError("inside")
    assert path.exists() and not is_locked(path) and not is_locked(tmp_path / "missing")
