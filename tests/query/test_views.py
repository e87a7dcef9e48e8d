"""Views: `memories` equals the fold, importance is readable, and repeated deliveries count once."""

import math
import tempfile
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.history import checkpoint, compaction, layout, storage, tables
from pipeline.history import log as history
from pipeline.memory.bank import fold
from pipeline.memory.events import Decision, SourceOffset
from pipeline.query import run as query
from pipeline.query.views import HALF_LIFE_S
from schemas.history import BEFORE_KEYS

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
IDS = [f"{n:032x}" for n in range(4)]

actions = st.tuples(
    st.sampled_from(["learned", "superseded", "reinforced", "used", "evicted", "forgotten", "skipped"]),
    st.sampled_from(["ada", "bob"]),
    st.sampled_from(IDS),
    st.sampled_from(IDS),
)


def stored(importance: float, at: datetime) -> float:
    """An importance as the history's files have it."""
    return float(np.float32(math.log2(importance) + at.timestamp() / HALF_LIFE_S))


def row(n: int, outcome: str, namespace: str, memory_id: str, nearest: str | None = None) -> Decision:
    learned: dict[str, Any] = {}
    if outcome in ("learned", "superseded"):
        learned = {
            "text": f"The answer is {n}.",
            "category": "sums",
            "fact_id": f"f{n}",
            "loss_delta": float(n),
            "encoder_id": "e",
            "priors": np.ones(4, np.float32),
            "surprisals": np.ones(4, np.float32),
            "vectors": np.ones((4, 2), np.uint8),
        }
    return Decision(
        namespace,
        outcome,
        SourceOffset("memory-hits" if outcome == "used" else "facts", "t", 7, n),
        NOW + timedelta(seconds=n),
        memory_id=memory_id,
        nearest=nearest,
        importance=stored(1.0 + n, NOW + timedelta(seconds=n)),
        observed_at=NOW - timedelta(seconds=n * 37 % 11),
        **learned,
    )


@settings(max_examples=50)
@given(
    st.lists(actions, max_size=40),
    st.integers(1, 7),
    st.sets(st.integers(0, 40)),
    st.sets(st.integers(0, 40)),
)
def test_memories_is_the_fold_of_the_bank(
    script: list[tuple[str, str, str, str]], size: int, kept: set[int], merged: set[int]
) -> None:
    """Whatever checkpoints are written and files merged meanwhile."""
    rows = [row(n, *action) for n, action in enumerate(script)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for version, start in enumerate(range(0, len(rows), size)):
            history.append(folder, 2, version, rows[start : start + size])
            if version in kept:
                bank = fold(rows[: start + size])
                assert checkpoint.write(folder, 2, version, rows[start : start + size], bank)
            if version in merged and version > 1:
                compaction.merge(layout.live_files(folder, 2)[:-1], 1 << 20)
        sql = "SELECT *, now() AS now FROM memories ORDER BY namespace, memory_id"
        found = query.run(folder, sql).to_pylist()
    bank = fold(rows)
    expected = sorted(
        (m for namespace in bank.namespaces for m in bank.memories(namespace)),
        key=lambda m: (m.namespace, m.memory_id),
    )
    used = {(r.namespace, r.memory_id): r.decided_at for r in rows if r.outcome == "used"}
    assert len(found) == len(expected)
    for memory, row_found in zip(expected, found, strict=True):
        last_used_at, importance = row_found.pop("last_used_at"), row_found.pop("importance")
        assert importance == pytest.approx(
            2 ** (memory.importance - row_found.pop("now").timestamp() / HALF_LIFE_S)
        )
        assert last_used_at == (used[memory.namespace, memory.memory_id] if memory.uses else None)
        assert row_found == {name: getattr(memory, name) for name in row_found}


def test_importance_is_shown_decayed_and_halves_every_half_life(tmp_path: Path) -> None:
    moments = [NOW, NOW + timedelta(days=15), NOW + timedelta(days=30), NOW + timedelta(days=300)]
    learned, used = row(0, "learned", "ada", IDS[0]), row(1, "used", "ada", IDS[1])
    rows = [
        replace(learned, decided_at=moments[0], importance=stored(4.0, moments[0])),
        replace(learned, memory_id=IDS[1], decided_at=moments[0], importance=stored(3.0, moments[0])),
        replace(used, decided_at=moments[1], importance=stored(6.0, moments[1])),
    ]
    history.append(tmp_path, 0, 0, rows)
    at_decision = query.run(tmp_path, "SELECT importance FROM history ORDER BY history_position")
    assert at_decision["importance"].to_pylist() == pytest.approx([4.0, 3.0, 6.0], rel=1e-4)
    expected = [[4.0, 3.0], [2.828427, 6.0], [2.0, 4.242641], [0.00390625, 0.008286]]
    for moment, values in zip(moments, expected, strict=True):
        sql = f"SELECT importance FROM memories_at('{moment.isoformat()}') ORDER BY memory_id"
        assert query.run(tmp_path, sql)["importance"].to_pylist() == pytest.approx(values, rel=1e-4)
    now = query.run(tmp_path, "SELECT importance, now() AS now FROM memories ORDER BY memory_id").to_pylist()
    for memory, raw in zip(now, (rows[0].importance, rows[2].importance), strict=True):
        assert raw is not None
        assert memory["importance"] == pytest.approx(2 ** (raw - memory["now"].timestamp() / HALF_LIFE_S))


def test_the_order_by_importance_is_that_of_the_stored_values(tmp_path: Path) -> None:
    dates = (1970, 1999, 2026, 2027, 9999)  # also of clocks that were wrong
    raw = [stored(1.0 + n, datetime(year, 1, 2, tzinfo=UTC)) for year in dates for n in range(3)]
    rows = [
        replace(row(n, "learned", "ada", f"{n:032x}"), importance=value)
        for n, value in enumerate(reversed(raw))
    ]
    history.append(tmp_path, 0, 0, rows)
    found = query.run(
        tmp_path, "SELECT memory_id, importance FROM memories ORDER BY importance, memory_id DESC"
    )
    assert [int(m["memory_id"], 16) for m in found.to_pylist()] == list(reversed(range(len(raw))))


def test_views_are_empty_and_typed_before_the_first_file(tmp_path: Path) -> None:
    for view in ("history", "memories", "generations", "dead_letters"):
        assert query.run(tmp_path, f"SELECT * FROM {view}").num_rows == 0
    types = {r["column_name"]: r["column_type"] for r in query.run(tmp_path, "DESCRIBE memories").to_pylist()}
    history.append(tmp_path, 0, 0, [row(0, "learned", "ada", IDS[0])])
    later = query.run(tmp_path, "DESCRIBE memories").to_pylist()
    assert {r["column_name"]: r["column_type"] for r in later} == types


@pytest.mark.parametrize("old", [{0}, {1}, {0, 1}])
def test_files_of_before_facts_had_keys_are_shown_with_nulls(old: set[int], tmp_path: Path) -> None:
    rows = [replace(row(n, "learned", "ada", IDS[n]), rule="new", key=f"k{n}") for n in range(2)]
    for version, one in enumerate(rows):
        path = history.append(tmp_path, 0, version, [one])
        assert storage.is_newest(path)
        if version in old:
            table = storage.read_table(path).select(BEFORE_KEYS.names)
            pq.write_table(table.replace_schema_metadata({storage.FORMAT_KEY: b"2"}), path)
            assert not storage.is_newest(path)
    expected = [(None, None) if n in old else ("new", f"k{n}") for n in range(2)]
    found = query.run(tmp_path, "SELECT rule, key FROM history ORDER BY history_position").to_pylist()
    assert [(one["rule"], one["key"]) for one in found] == expected
    kept = query.run(tmp_path, "SELECT key, text FROM memories ORDER BY memory_id").to_pylist()
    assert [(one["key"], one["text"]) for one in kept] == [
        (key, one.text) for (_, key), one in zip(expected, rows, strict=True)
    ]


def test_history_has_the_partition_of_the_record_and_of_the_history(tmp_path: Path) -> None:
    data = tmp_path / "it's [a] folder"
    history.append(data, 3, 0, [row(0, "learned", "ada", IDS[0]), row(1, "used", "ada", IDS[0])])
    history.append(data, 3, 1, [row(2, "used", "ada", IDS[0])])
    (data / "history" / "partition=3" / ".0000000002.x.tmp").write_bytes(b"half")
    (data / "history" / "partition=3" / "copy.parquet").write_bytes(b"not ours")
    table = query.run(
        data,
        'SELECT partition, history_partition, "offset", decided_at FROM history ORDER BY history_position',
    )
    assert table.to_pylist() == [
        {"partition": 7, "history_partition": 3, "offset": n, "decided_at": NOW + timedelta(seconds=n)}
        for n in range(3)
    ]
    names = set(query.run(data, "SELECT * FROM history").column_names)
    assert not names & {"priors", "surprisals", "vectors", "filename"}


def test_repeated_deliveries_are_shown_once(tmp_path: Path) -> None:
    letter = {
        "topic": "facts",
        "partition": 0,
        "offset": 5,
        "reason": "empty",
        "error": "no value",
        "worker": "encoder",
        "time": NOW,
        "value": b"{",
    }
    tables.append_dead_letters(tmp_path, [letter | {"time": NOW + timedelta(seconds=9)}], "a")
    tables.append_dead_letters(tmp_path, [letter, letter | {"offset": 6}], "b")
    table = query.run(tmp_path, 'SELECT "offset", time FROM dead_letters ORDER BY ALL')
    assert table.to_pylist() == [{"offset": 5, "time": NOW}, {"offset": 6, "time": NOW}]
    answer = {
        "request_id": "r",
        "namespaces": ["ada"],
        "prompt": "p",
        "text": "first",
        "use_memory": True,
        "memory_ids": [],
        "gates": [],
        "finish_reason": "stop",
        "answered_at": NOW,
        "partition": 0,
        "offset": 1,
    }
    tables.append_generations(tmp_path, [answer], "z")
    again = answer | {"text": "second", "answered_at": NOW + timedelta(seconds=1)}
    tables.append_generations(tmp_path, [again], "a")
    assert query.run(tmp_path, "FROM generations SELECT text").to_pylist() == [{"text": "first"}]
