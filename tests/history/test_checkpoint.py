"""Checkpoints: equal to the fold, for every later decision, or refused."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import Settings
from pipeline.history import checkpoint, compaction, layout
from pipeline.history import log as history
from pipeline.history.errors import HistoryError
from pipeline.memory.bank import Bank, fold, memory_id
from schemas.history import CHECKPOINT
from tests.history.test_erasure import fact_message, files_with_text, request, texts
from tests.write.local_writer import HOME, NOW, agree, batch, decided, message, row, writer
from workers.write import partition
from workers.write.partition import decide_events, load
from workers.write.validate import decode_events

SETTINGS = Settings()


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """A snapshot whenever there are that many decisions more."""
    monkeypatch.setattr(partition, "CHECKPOINT_EVERY", 4)
    monkeypatch.setattr(compaction, "FAN", 4)


def found(data: Path) -> list[Path]:
    return sorted(data.rglob("snapshot-*.parquet"))


@given(
    st.lists(st.tuples(texts, st.sampled_from(["fact", "fact", "forget"])), min_size=2, max_size=30),
    st.data(),
)
def test_a_checkpoint_is_the_fold_and_decides_the_same(
    tmp_path_factory: pytest.TempPathFactory, script: list[tuple[str, str]], drawn: Any
) -> None:
    folder, bank, at = (
        tmp_path_factory.mktemp("data"),
        Bank(Settings(capacity=5)),
        drawn.draw(st.integers(0, len(script) - 1)),
    )
    for n, (text, kind) in enumerate(script):
        forget = row(n, "", kind="forget", forget=memory_id("default", text))
        value = message(row(n, text, fact_id=f"id-{n % 7}", category=text[:8]) if kind == "fact" else forget)
        decisions = decide_events(bank, decode_events(value), lambda: NOW).decisions
        history.append(folder, HOME, n, decisions)
        if n == at:
            assert checkpoint.write(folder, HOME, n, decisions, bank)
    kept = checkpoint.read(folder, HOME, bank.settings)
    assert kept is not None and kept.version == at
    for _, rows in history.read(folder, HOME, at):
        for decision in rows:
            kept.bank.apply(decision)
    assert kept.bank.digest() == bank.digest()
    assert kept.bank.decided_state("default") == bank.decided_state("default")
    assert kept.bank.positions("default") == bank.positions("default")
    after = message(
        *(row(len(script) + i, text, fact_id=f"id-{i % 9}") for i, (text, _) in enumerate(script))
    )
    both = [decide_events(one, decode_events(after), lambda: NOW).decisions for one in (bank, kept.bank)]
    outcomes = [
        [(d.outcome, d.memory_id, d.nearest, d.importance, d.similarity) for d in one] for one in both
    ]
    assert outcomes[0] == outcomes[1] and kept.bank.digest() == bank.digest()


def fill(data: Path, count: int = 12, what: str = "lamp") -> tuple[Any, Any]:
    worker, sent = writer(data)
    for offset in range(count):
        worker.process(batch(fact_message(offset, f"The {what} {offset} is old."), start=offset))
    return worker, sent


@pytest.mark.usefixtures("eager")
def test_a_start_folds_only_the_versions_after_the_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, sent = fill(tmp_path)
    [path] = found(tmp_path)
    assert path.name.startswith("snapshot-0000000004-")
    after, real = list[int](), history.read

    def counted(data: Path, number: int, since: int = -1) -> Iterator[Any]:
        after.append(since)
        return real(data, number, since)

    monkeypatch.setattr(history, "read", counted)
    other, _ = writer(tmp_path, worker._settings)
    assert after and min(after) >= 3
    assert (
        other._held[HOME].bank.digest()
        == worker._held[HOME].bank.digest()
        == fold(decided(tmp_path)).digest()
    )
    other.process(batch(fact_message(12, "The lamp 3 is new."), start=12))
    agree(sent, tmp_path)
    again, _ = writer(tmp_path, worker._settings)
    again.process(batch(fact_message(12, "The lamp 3 is new."), start=12))  # decided before
    assert len(decided(tmp_path)) == 13


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("damage", ["flipped", "cut", "empty", "version", "foreign", "ahead"])
def test_a_checkpoint_that_is_damaged_or_of_another_history_is_refused(
    damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, _ = fill(tmp_path)
    [path] = found(tmp_path)
    raw, digest = path.read_bytes(), worker._held[HOME].bank.digest()
    if damage == "flipped":
        path.write_bytes(raw[:300] + bytes([raw[300] ^ 1]) + raw[301:])
    elif damage == "cut":
        path.write_bytes(raw[:-9])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "version":
        monkeypatch.setattr(
            checkpoint, "CHECKPOINT", CHECKPOINT.with_metadata({b"factstream.snapshot": b"3"})
        )
    else:  # the history was brought back from a backup, or is another's
        fill(tmp_path / "other", 12 if damage == "foreign" else 3, "desk")
        folder = layout.partition_folder(tmp_path / "other", HOME)
        for gone in found(tmp_path / "other"):
            gone.unlink()
        path.rename(folder / path.name)
        tmp_path = tmp_path / "other"
        digest = fold(decided(tmp_path)).digest()
    with pytest.raises(HistoryError, match=path.name):
        checkpoint.read(tmp_path, HOME, SETTINGS)
    assert load(tmp_path, HOME, SETTINGS).bank.digest() == digest


@pytest.mark.usefixtures("eager")
def test_an_erasure_removes_checkpoints(tmp_path: Path) -> None:
    worker, sent = writer(tmp_path)
    for offset in range(12):
        worker.process(batch(fact_message(offset, f"Torben Betts {offset} was from Munich."), start=offset))
    [path] = found(tmp_path)
    assert path.name in files_with_text(tmp_path)
    path.with_name(".snapshot.tmp").write_bytes(b"Munich")
    erased = [memory_id("default", f"Torben Betts {n} was from Munich.") for n in range(12)]
    worker.process(batch(*(request("erase", 12 + n, memory) for n, memory in enumerate(erased)), start=12))
    assert files_with_text(tmp_path) == [] and not path.exists()
    assert load(tmp_path, HOME, SETTINGS).bank.digest() == worker._held[HOME].bank.digest()
    agree(sent, tmp_path)


def test_a_checkpoint_of_an_outdated_bank_is_not_written(tmp_path: Path) -> None:
    worker, _ = fill(tmp_path)
    part = worker._held[HOME]
    history.append(tmp_path, HOME, part.version + 1, [])
    assert not checkpoint.write(tmp_path, HOME, part.version, part.last, part.bank) and found(tmp_path) == []


class Killed(BaseException): ...


def test_a_kill_during_a_write_leaves_the_checkpoint_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, _ = fill(tmp_path)
    part = worker._held[HOME]
    checkpoint.write(tmp_path, HOME, part.version, part.last, part.bank)
    worker.process(batch(fact_message(12, "The lamp 12 is old."), start=12))
    for owner, name in ((pq, "ParquetWriter"), (Path, "replace"), (checkpoint, "sync_folder")):
        with monkeypatch.context() as patched, pytest.raises(Killed):
            patched.setattr(owner, name, lambda *_, **__: (_ for _ in ()).throw(Killed))
            checkpoint.write(tmp_path, HOME, part.version, part.last, part.bank)
        assert load(tmp_path, HOME, SETTINGS).bank.digest() == part.bank.digest()
    assert checkpoint.write(tmp_path, HOME, part.version, part.last, part.bank)
    assert len(found(tmp_path)) == 1 and not list(tmp_path.rglob("*.tmp"))
