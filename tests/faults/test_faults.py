"""Full disks, damaged files and clocks that jump: an error names the file, and no memory is wrong."""

import errno
import os
import random
import subprocess
import sys
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pipeline.history import layout
from pipeline.history import log as history
from pipeline.history.errors import HistoryError
from schemas import topics
from tests.history.test_log import assert_same, sample
from tests.write.local_writer import (
    HOME,
    NOW,
    OUTCOMES,
    TEXTS,
    Local,
    agree,
    batch,
    begin,
    decided,
    facts,
    message,
    row,
    take,
    writer,
)
from workers.kafka.admin import ensure_topics
from workers.kafka.config import KafkaSettings
from workers.runtime import loop
from workers.runtime.worker import Retry
from workers.write.worker import WriterWorker

ROOT = Path(__file__).parent.parent.parent


class Disk:
    """A disk on which writes fail with `error` while it is set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.error = 0
        for name in ("fsync", "link"):
            monkeypatch.setattr(os, name, self._refusing(getattr(os, name)))

    def _refusing(self, call: Any) -> Any:
        def refusing(*args: Any, **options: Any) -> Any:
            if self.error:
                raise OSError(self.error, os.strerror(self.error))
            return call(*args, **options)

        return refusing


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EIO])
def test_disk_errors_are_retried_and_nothing_is_decided_twice(error: int, disk: Disk, tmp_path: Path) -> None:
    worker, sent = writer(tmp_path)
    disk.error = error
    with pytest.raises(
        Retry, match=rf"0000000000\.parquet: cannot be written: {os.strerror(error)}; check the space"
    ):
        worker.process(facts())
    assert not sent.on(topics.MEMORY_CHANGELOG)  # nothing is sent before it is kept
    disk.error = 0
    take(worker)
    worker.process(facts())
    assert [d.outcome for d in decided(tmp_path)] == OUTCOMES
    agree(sent, tmp_path)
    assert [file.path.name for file in layout.live_files(tmp_path, HOME)] == ["0000000000.parquet"]
    assert not list(tmp_path.rglob("*.tmp"))


def test_disk_errors_of_dead_letters_are_retried(disk: Disk, tmp_path: Path) -> None:
    worker, _ = writer(tmp_path)
    disk.error = errno.ENOSPC
    with pytest.raises(Retry, match=r"dead_letters/.*No space left.*check the space"):
        worker.process(batch(b"{", topic=topics.DEAD_LETTERS))


def test_a_file_size_limit_leaves_no_partial_file(tmp_path: Path) -> None:
    """The kernel limits the size of the process's files. It writes no bytecode (-B), which would be cut off, too."""
    script = (
        "import resource, sys; from pathlib import Path\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))\n"
        "from tests.history.test_log import sample; sample(Path(sys.argv[1]))"
    )
    command = [sys.executable, "-B", "-c", script, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (
        done.returncode
        and "Unwritable" in done.stderr
        and "0000000000.parquet: cannot be written" in done.stderr
    )
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def ended(settings: KafkaSettings, data: Path, capfd: pytest.CaptureFixture[str]) -> str:
    """What the log says of a writer that cannot start."""
    from workers.observe import log

    log.setup("writer")
    assert loop.run(WriterWorker(settings, data), settings, data, poll_ms=50, sleep=lambda _: None) == 1
    return capfd.readouterr().err


@pytest.mark.parametrize("damage", ["truncated", "flipped", "newer", "missing", "empty"])
def test_a_damaged_history_ends_the_writer_with_one_line(
    damage: str, settings: KafkaSettings, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    import pyarrow.parquet as pq

    ensure_topics(settings)
    worker, _ = writer(tmp_path)
    for offset, text in enumerate(TEXTS[:2]):
        worker.process(batch(message(row(offset, text)), start=offset))
    path = layout.live_files(tmp_path, HOME)[0].path
    raw = path.read_bytes()
    if damage == "truncated":
        path.write_bytes(raw[:-20])
    elif damage == "flipped":
        path.write_bytes(raw[:200] + bytes([raw[200] ^ 1]) + raw[201:])
    elif damage == "newer":
        table = pq.read_table(path, partitioning=None)
        pq.write_table(table.replace_schema_metadata({b"factstream.history": b"9"}), path)
    elif damage == "empty":
        path.write_bytes(b"")
    else:
        path.unlink()
    logged = ended(settings, tmp_path, capfd)
    [line] = [line for line in logged.splitlines() if "writer ERROR failed reason=" in line]
    assert str(path) in line and ("upgrade" if damage == "newer" else "backup") in line
    assert "Traceback" not in logged


def test_a_data_folder_that_cannot_be_used_is_named(
    settings: KafkaSettings, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    ensure_topics(settings)
    (tmp_path / "file").write_text("")
    logged = ended(settings, tmp_path / "file" / "data", capfd)
    assert f"{tmp_path}/file/data: Not a directory; check the space and the permissions" in logged
    assert "Traceback" not in logged


def test_a_flipped_bit_never_changes_the_memory(tmp_path: Path) -> None:
    path, rows = sample(tmp_path)
    raw, dice, seen = path.read_bytes(), random.Random(11), Counter[str]()
    for _ in range(400):
        flipped = bytearray(raw)
        flipped[dice.randrange(len(raw))] ^= 1 << dice.randrange(8)
        path.write_bytes(flipped)
        try:
            ((_, read),) = history.read(tmp_path, 0)
            assert_same(read, rows)
            seen["same"] += 1
        except HistoryError as error:
            assert str(path) in str(error)
            seen["refused"] += 1
    assert seen["refused"] > 200


@pytest.mark.parametrize("jump", [timedelta(days=-4000), timedelta(days=4000)])
def test_a_clock_that_jumps_changes_no_decision(jump: timedelta, tmp_path: Path) -> None:
    """What counts is when a fact was observed; when it was decided is only written down."""
    plain, _ = writer(tmp_path / "plain")
    plain.process(facts())
    clock = iter([NOW, NOW + jump, NOW, NOW + jump, NOW + 2 * jump, NOW])
    worker = WriterWorker(Local(), tmp_path / "jumping", now=lambda: next(clock))
    begin(worker)
    worker.process(facts())
    assert [d.outcome for d in decided(tmp_path / "jumping")] == OUTCOMES
    assert worker._held[HOME].bank.digest() == plain._held[HOME].bank.digest()
    again, _ = writer(tmp_path / "jumping")
    assert again._held[HOME].bank.digest() == worker._held[HOME].bank.digest()


def test_the_latest_possible_time_is_accepted(tmp_path: Path) -> None:
    worker, sent = writer(tmp_path)
    late = datetime(9999, 12, 31, 23, 59, tzinfo=UTC)
    worker.process(
        batch(message(row(0, TEXTS[0], published_at=late, observed_at=late)), message(row(1, TEXTS[1])))
    )
    assert [d.outcome for d in decided(tmp_path)] == ["learned", "learned"]
    agree(sent, tmp_path)
