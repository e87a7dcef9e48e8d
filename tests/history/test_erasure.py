"""Erasure: no copy of the text is left in the data folder, and the fold is that of a forgotten memory."""

import fcntl
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kafka.errors import KafkaTimeoutError

from pipeline.history import layout, storage, tables
from pipeline.history import log as history
from pipeline.history.erasure import erase
from pipeline.history.errors import HistoryError
from pipeline.memory.bank import Bank, fold, memory_id
from pipeline.memory.events import Decision
from pipeline.query import run as query
from pipeline.text.words import split
from tests.write.local_writer import HOME, agree, batch, decided, message, row, take, writer
from workers.runtime.worker import Retry
from workers.write.partition import decide_events
from workers.write.validate import decode_events

NOW = datetime(2026, 1, 2, tzinfo=UTC)
SECRET = "Torben Betts was from Munich."
FACTS = [
    SECRET, "The Harlow lamp is made of walnut.", "torben betts was from MUNICH!", "Torben Betts was from Perth.",
    "Ines Okafor keeps the rota.", SECRET,
]  # fmt: skip
MEMORY = memory_id("default", SECRET)
WORDS = (b"Munich", b"MUNICH")


def request(kind: str, offset: int, memory: str = MEMORY) -> bytes:
    return message(row(offset, "", kind=kind, forget=memory))


def fact_message(offset: int, text: str) -> bytes:
    """A fact as the encoder sends it; its vectors say whose they are."""
    words = len(split(text))
    return message(row(offset, text, vectors=bytes([offset + 1] * words)))


def everything(data: Path) -> Iterator[tuple[Path, str]]:
    """Each Parquet file below the data folder, and all that it says."""
    for path in data.rglob("*"):
        if path.suffix == ".parquet":
            yield path, repr(pq.ParquetFile(path).read().to_pylist())
        elif path.is_file():
            yield path, repr(path.read_bytes())


def files_with_text(data: Path) -> list[str]:
    return [path.name for path, text in everything(data) if any(word.decode() in text for word in WORDS)]


def fill(data: Path) -> None:
    """Answers and dead letters; some contain the erased text."""
    answer = {
        "namespaces": ["default"], "use_memory": True, "memory_ids": [], "gates": [], "finish_reason": "stop",
        "answered_at": NOW, "partition": 0,
    }  # fmt: skip
    rows: list[dict[str, Any]] = [
        {"request_id": "quotes", "prompt": f"{SECRET} Really?", "text": "yes", "offset": 0},
        {
            "request_id": "used",
            "prompt": "Where from?",
            "text": "He is from Munich.",
            "memory_ids": [MEMORY],
            "offset": 1,
        },
        {"request_id": "other", "prompt": "The lamp", "text": "is old.", "offset": 2},
    ]
    tables.append_generations(data, [answer | one for one in rows], "a")
    letter = {
        "topic": "facts",
        "partition": 0,
        "reason": "r",
        "error": "e",
        "worker": "w",
        "time": NOW,
        "key": b"default",
    }
    values = [json.dumps({"text": SECRET, "no": 1}).encode(), b"{", None]
    tables.append_dead_letters(data, [letter | {"offset": n, "value": v} for n, v in enumerate(values)], "a")


def run(data: Path, kind: str) -> Bank:
    worker, sent = writer(data)
    for offset, text in enumerate(FACTS[:3]):
        worker.process(batch(fact_message(offset, text), start=offset))
    worker.process(batch(*(fact_message(n, text) for n, text in enumerate(FACTS))))
    fill(data)
    worker.process(batch(request(kind, 6), start=6))
    agree(sent, data)
    return worker._held[HOME].bank


def test_no_copy_of_the_text_is_left_and_the_rest_is_unchanged(tmp_path: Path) -> None:
    kept = run(tmp_path / "kept", "forget")
    erased = run(tmp_path / "erased", "erase")
    assert len(files_with_text(tmp_path / "kept")) == 6 and files_with_text(tmp_path / "erased") == []
    assert fold(decided(tmp_path / "erased")).digest() == erased.digest() == kept.digest()
    assert erased.positions("default") == kept.positions("default")
    before, after = decided(tmp_path / "kept"), decided(tmp_path / "erased")
    assert [d.cause for d in after] == [d.cause for d in before]
    assert [d.outcome for d in after[:-1]] == [d.outcome for d in before[:-1]]
    assert (before[-1].outcome, after[-1].outcome) == ("forgotten", "erased")
    for a, b in zip(after, before, strict=True):
        if not any(word.decode() in (b.text or "") for word in WORDS):
            assert a.text == b.text and (a.vectors is None) == (b.vectors is None)
        else:
            assert (a.text, a.vectors, a.priors, a.surprisals) == (None, None, None, None)
            assert (a.loss_delta, a.importance, a.memory_id) == (b.loss_delta, b.importance, b.memory_id)
    rows = query.run(tmp_path / "erased", "select text from memories order by text").to_pylist()
    assert rows == query.run(tmp_path / "kept", "select text from memories order by text").to_pylist()
    answers = query.run(tmp_path / "erased", "select request_id, prompt, text from generations").to_pylist()
    assert {r["request_id"]: (r["prompt"], r["text"]) for r in answers} == {
        "quotes": ("", ""), "used": ("", ""), "other": ("The lamp", "is old.")
    }  # fmt: skip
    letters = query.run(tmp_path / "erased", 'select value from dead_letters order by "offset"').to_pylist()
    assert [r["value"] for r in letters] == [None, b"{", None]


def test_an_erased_fact_stays_decided(tmp_path: Path) -> None:
    run(tmp_path, "erase")
    count = len(decided(tmp_path))
    again, _ = writer(tmp_path)
    again.process(batch(*(message(row(n, text)) for n, text in enumerate(FACTS))))
    again.process(batch(request("erase", 6), start=6))
    assert len(decided(tmp_path)) == count and files_with_text(tmp_path) == []


def test_an_erased_fact_may_be_learned_again(tmp_path: Path) -> None:
    worker, sent = writer(tmp_path)
    worker.process(batch(message(row(0, SECRET))))
    worker.process(batch(request("erase", 1), message(row(2, SECRET)), start=1))
    worker.process(batch(message(row(3, FACTS[1])), start=3))
    assert [d.text for d in decided(tmp_path)] == [None, None, SECRET, FACTS[1]]
    other, _ = writer(tmp_path, worker._settings)  # type: ignore[arg-type]
    assert other._held[HOME].bank.digest() == worker._held[HOME].bank.digest()
    assert other._held[HOME].bank.get("default", MEMORY) is not None
    agree(sent, tmp_path)


def test_a_memory_that_is_already_gone_is_erased(tmp_path: Path) -> None:
    worker, _ = writer(tmp_path)
    worker.process(batch(message(row(0, SECRET)), message(row(1, "Torben Betts was from Perth."))))
    assert [d.outcome for d in decided(tmp_path)] == ["learned", "superseded"]
    worker.process(batch(request("erase", 2), start=2))
    assert files_with_text(tmp_path) == [] and worker._held[HOME].bank.size("default") == 1


@pytest.mark.parametrize("step", range(9))
def test_the_next_writer_finishes_an_erasure_after_a_crash(
    step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps: before each of the seven replacements of a file, and before the changelog is rows."""
    expected = run(tmp_path / "undisturbed", "forget").digest()
    data = tmp_path / "data"
    worker, sent = writer(data)
    for offset, text in enumerate(FACTS):
        worker.process(batch(fact_message(offset, text), start=offset))
    fill(data)
    replaced, count = Path.replace, iter(range(1000))

    def failing(self: Path, target: Path) -> Path:
        if next(count) == step:
            raise KeyboardInterrupt  # as good as a kill: nothing that runs after it may matter
        return replaced(self, target)

    monkeypatch.setattr(Path, "replace", failing)
    sent.failures = 1  # where the erasure came to its end, the changelog is not rows
    with pytest.raises((KeyboardInterrupt, KafkaTimeoutError)):
        worker.process(batch(request("erase", 6), start=6))
    monkeypatch.setattr(Path, "replace", replaced)
    assert decided(data)[-1].outcome == "erased"  # decided, hence to be done
    sent.crash()
    other, _ = writer(data, worker._settings)  # type: ignore[arg-type]
    assert files_with_text(data) == []
    assert other._held[HOME].bank.digest() == fold(decided(data)).digest()
    assert other._held[HOME].bank.digest() == expected
    agree(sent, data)


def test_an_erasure_waits_for_the_lock_and_is_retried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, _ = writer(tmp_path)
    worker.process(batch(message(row(0, SECRET))))
    monkeypatch.setattr(storage, "LOCK_WAIT_S", 0.1)
    with (tmp_path / "history" / f"partition={HOME}" / ".lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(Retry, match="another process holds it"):
            worker.process(batch(request("erase", 1), start=1))
    take(worker)
    assert files_with_text(tmp_path) == []


def test_a_missing_text_without_an_erasure_is_damage(tmp_path: Path) -> None:
    worker, _ = writer(tmp_path)
    worker.process(batch(message(row(0, SECRET))))
    [(_, _, path)] = layout.live_files(tmp_path, HOME)
    table = storage.read_table(path)
    place = table.schema.get_field_index("text")
    bare = table.set_column(place, table.schema.field(place), pa.nulls(1, pa.string()))
    pq.write_table(bare, path)
    with pytest.raises(HistoryError, match=r"0000000000\.parquet.*backup"):
        decided(tmp_path)


texts = st.sampled_from([f"The {name} of {place} is {what}." for name in ("mayor", "river") for place in ("Oslo", "Rome")
    for what in ("Ada", "long", "old")])  # fmt: skip


@given(st.lists(st.tuples(texts, st.booleans()), min_size=1, max_size=25), st.data())
def test_the_fold_after_an_erasure_is_the_fold_before_it(
    tmp_path_factory: pytest.TempPathFactory, script: list[tuple[str, bool]], data: Any
) -> None:
    """Facts, and requests to forget, in any order: erasing one memory changes no later decision."""
    erased = memory_id("default", data.draw(texts))
    banks: dict[str, Bank] = {}
    decisions: dict[str, list[Decision]] = {}
    for kind in ("forget", "erase"):
        bank, folder = Bank(), tmp_path_factory.mktemp("data")
        for n, (text, forget) in enumerate(script):
            value = message(
                row(n, "", kind="forget", forget=memory_id("default", text)) if forget else row(n, text)
            )
            history.append(folder, HOME, n, decide_events(bank, decode_events(value), lambda: NOW).decisions)
        n = len(script)
        history.append(
            folder,
            HOME,
            n,
            decide_events(bank, decode_events(request(kind, n, erased)), lambda: NOW).decisions,
        )
        if kind == "erase":
            erase(folder, HOME, n)
            assert erase(folder, HOME, n) == 0
        banks[kind] = fold(d for _, rows in history.read(folder, HOME) for d in rows)
        assert banks[kind].digest() == bank.digest()
        after = [row(n + 1 + i, text) for i, (text, _) in enumerate(script)]
        decisions[kind] = decide_events(banks[kind], decode_events(message(*after)), lambda: NOW).decisions
    plain = [
        [(d.outcome, d.memory_id, d.nearest, d.importance) for d in decisions[kind]]
        for kind in ("forget", "erase")
    ]
    assert plain[0] == plain[1] and banks["forget"].digest() == banks["erase"].digest()
