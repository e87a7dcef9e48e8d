"""The mirror: the history's rows are in the Delta table once, and what is erased is in no file of it."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest

pytest.importorskip("deltalake", reason="deltalake is not installed: pip install 'factstream[delta]'")

from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from pipeline.history import compaction, erasure
from pipeline.history.errors import HistoryError
from pipeline.query import run as query
from pipeline.store import opening
from tests.conftest import wait_until
from tests.history.test_erasure import MEMORY, SECRET, fact_message, request
from tests.store.stores import bucket
from tests.write.local_writer import HOME, batch, writer
from workers.mirror import follow
from workers.mirror import table as delta
from workers.runtime.signals import Stop

COLUMNS = 'outcome, text, memory_id, observed_at, decided_at, loss_delta, "offset"'


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return delta.address(f"delta://{tmp_path}/table")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


class Writer:
    """Decides facts, one a version, in the partition HOME."""

    def __init__(self, data: Path) -> None:
        self.worker, _ = writer(data)
        self._offset = 0

    def learn(self, *texts: str) -> None:
        for text in texts:
            self._decide(fact_message(self._offset, text))

    def erase(self, memory: str) -> None:
        self._decide(request("erase", self._offset, memory))

    def _decide(self, message: bytes) -> None:
        self._offset += 1
        self.worker.process(batch(message, start=self._offset))


def rows(uri: str) -> list[Any]:
    """The table, as DuckDB reads it."""
    sql = f"SELECT {COLUMNS} FROM history ORDER BY history_partition, history_position"
    with duckdb.connect() as connection:
        connection.register("history", DeltaTable(uri).to_pyarrow_dataset())
        found: list[Any] = connection.sql(sql).to_arrow_table().to_pylist()
    return found


def is_mirrored(data: Path, uri: str) -> bool:
    sql = f"SELECT {COLUMNS} FROM history ORDER BY history_partition, history_position"
    return bool(rows(uri) == query.run(data, sql).to_pylist())


def files_with(uri: str, word: str) -> list[str]:
    """The files below the table's folder, the log and its checkpoints too, that have the word in plain or in a column."""
    found = []
    for path in Path(uri).rglob("*"):
        if path.is_file():
            content = repr(path.read_bytes())
            if path.suffix == ".parquet":
                content += repr(pq.ParquetFile(path).read().to_pylist())
            found += [path.name] if word in content else []
    return found


def test_the_table_has_the_history_once_however_often_it_is_mirrored(data: Path, uri: str) -> None:
    made = Writer(data)
    made.learn(SECRET, "The Harlow lamp is made of walnut.", SECRET)
    assert follow.once(data, uri).rows == 3
    assert is_mirrored(data, uri)
    made.learn("Torben Betts was from Perth.", *(f"Lake {n} is deep." for n in range(40)))
    while compaction.step(data, HOME, 1e12):  # files are merged meanwhile
        pass
    assert follow.once(data, uri).rows == 41 and is_mirrored(data, uri)
    version = DeltaTable(uri).version()
    assert follow.once(data, uri) == follow.Passed() and DeltaTable(uri).version() == version
    names = DeltaTable(uri).schema().to_arrow().names
    assert not {"vectors", "priors", "surprisals"} & set(names) and "history_partition" in names
    assert DeltaTable(uri).protocol().min_reader_version == 1  # every engine reads it


def test_an_empty_history_is_an_empty_table(data: Path, uri: str) -> None:
    assert follow.once(data, uri).commits == 0 and rows(uri) == []


def test_a_long_history_comes_in_several_commits(
    data: Path, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Writer(data).learn(*(f"Lake {n} is deep." for n in range(10)))
    monkeypatch.setattr(follow, "ROWS", 4)
    assert follow.once(data, uri).commits == 3 and is_mirrored(data, uri)


def test_many_erasures_rewrite_a_partition_once(
    data: Path, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Writer(data)
    made.learn(SECRET)
    assert follow.once(data, uri).rows == 1
    monkeypatch.setattr(follow, "ROWS", 2)
    made.erase(MEMORY)
    for n in range(4):
        made.learn(f"Lake {n} is deep.")
        made.erase(MEMORY)
    passed = follow.once(data, uri)
    assert (passed.rows, passed.commits, passed.rewritten) == (9, 1, [HOME])
    assert is_mirrored(data, uri) and files_with(uri, "Munich") == []


def test_what_a_store_keeps_and_erases_is_mirrored(
    tmp_path: Path, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = bucket()
    monkeypatch.setattr(opening, "_bucket", lambda url: own)
    here, elsewhere = tmp_path / "machine-1", tmp_path / "machine-2"
    for machine in (here, elsewhere):
        machine.mkdir()
        (machine / "store.url").write_text("s3://facts/one")
    made = Writer(elsewhere)
    made.learn(SECRET, "The Harlow lamp is made of walnut.")
    assert follow.once(here, uri).rows == 2 and is_mirrored(here, uri)
    made.erase(MEMORY)
    made.learn("Ines Okafor keeps the rota.")
    passed = follow.once(here, uri)
    assert (passed.rows, passed.rewritten) == (2, [HOME])
    assert is_mirrored(here, uri) and files_with(uri, "Munich") == []


class Killed(Exception):
    """The process would have ended here."""


def killed_at(patch: pytest.MonkeyPatch, owner: Any, name: str, after: bool) -> None:
    """The process ends before the call, or after it."""
    call: Callable[..., Any] = getattr(owner, name)

    def until(*arguments: Any, **named: Any) -> None:
        if after:
            call(*arguments, **named)
        raise Killed

    patch.setattr(owner, name, until)


STEPS: list[tuple[Any, str, bool]] = [
    (DeltaTable, "create", False), (DeltaTable, "create", True), (delta, "append", False),
    (delta, "append", True), (delta, "rewrite", False), (delta, "rewrite", True), (DeltaTable, "vacuum", False),
    (DeltaTable, "vacuum", True),
]  # fmt: skip


@pytest.mark.parametrize(("owner", "name", "after"), STEPS)
def test_a_kill_at_any_step_leaves_nothing_twice_and_no_text(
    data: Path, uri: str, owner: Any, name: str, after: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Writer(data)

    def mirrored() -> None:
        with monkeypatch.context() as patch:
            killed_at(patch, owner, name, after)
            try:
                follow.once(data, uri)
            except Killed:
                killed.append(name)
        follow.once(data, uri)

    killed = list[str]()
    made.learn(SECRET, "The Harlow lamp is made of walnut.")
    mirrored()
    assert is_mirrored(data, uri) and files_with(uri, "Munich")
    orphan = next(Path(uri).rglob("part-*.parquet"))  # as of a pass that was killed before its commit
    orphan.with_name("part-of-a-pass-that-was-killed.parquet").write_bytes(orphan.read_bytes())
    made.erase(MEMORY)
    made.learn("Ines Okafor keeps the rota.")
    mirrored()
    assert killed and is_mirrored(data, uri)
    assert files_with(uri, "Munich") == [] and files_with(uri, "walnut")


def test_a_mirror_waits_for_an_erasure_that_is_not_carried_out(
    data: Path, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Writer(data)
    made.learn(SECRET, "The Harlow lamp is made of walnut.")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        killed_at(patch, erasure, "erase", False)
        made.erase(MEMORY)
    assert follow.once(data, uri).rows == 2 and follow.once(data, uri).rows == 0
    again = Writer(data)  # gets the partition, and does the rest
    assert follow.once(data, uri).rewritten == [HOME]
    assert is_mirrored(data, uri) and files_with(uri, "Munich") == []
    assert follow.once(data, uri).rewritten == []
    again.worker.close()


def test_two_mirrors_at_once_bring_nothing_twice(
    data: Path, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Writer(data).learn(SECRET)
    append = delta.append

    def late(*given: Any) -> None:
        monkeypatch.setattr(delta, "append", append)
        follow.once(data, uri)  # the other one comes first
        append(*given)

    monkeypatch.setattr(delta, "append", late)
    with pytest.raises(DeltaError, match="Concurrent transaction"):
        follow.once(data, uri)
    assert is_mirrored(data, uri)


def test_the_table_of_another_history_is_refused(data: Path, uri: str, tmp_path: Path) -> None:
    Writer(data).learn(SECRET, "The Harlow lamp is made of walnut.")
    follow.once(data, uri)
    Writer(tmp_path / "other").learn("Lake Vorren is deep.")
    with pytest.raises(ValueError, match="take a new table"):
        follow.once(tmp_path / "other", uri)


def test_a_following_mirror_tries_again_and_gives_up(
    data: Path, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Writer(data).learn(SECRET)
    stop = Stop()
    monkeypatch.setattr(follow, "BACKOFF_S", 0.0)
    monkeypatch.setattr(follow, "EVERY_S", 0.01)

    def answers() -> Iterator[Any]:
        yield from [OSError("no answer")] * follow.RETRIES
        yield follow.Passed()
        yield from [HistoryError("damaged")] * (follow.RETRIES + 1)

    given = answers()

    def once(*_: Any) -> follow.Passed:
        answer = next(given)
        if isinstance(answer, Exception):
            raise answer
        return answer  # type: ignore[no-any-return]

    monkeypatch.setattr(follow, "once", once)
    with pytest.raises(HistoryError, match="damaged"):
        follow.follow(data, uri, stop)
    assert list(given) == []


def test_the_command_follows_until_sigterm(data: Path, uri: str) -> None:
    made = Writer(data)
    made.learn(SECRET)
    command = [sys.executable, "-m", "workers.cli", "mirror", "--data", str(data), "--to", f"delta://{uri}"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | {"NO_COLOR": "1"})
    wait_until(
        lambda: process.poll() is not None or (DeltaTable.is_deltatable(uri) and len(rows(uri)) == 1), 60
    )
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate(timeout=30)
    assert process.returncode == 0, told
    assert "mirrored" in told and "stopped" in told
    done = subprocess.run([*command, "--once"], capture_output=True, text=True)
    assert done.returncode == 0 and "rows=0" in done.stderr
    refused = subprocess.run([*command[:-1], "delta://", "--once"], capture_output=True, text=True)
    assert refused.returncode == 1 and "a path or an address is missing" in refused.stderr
