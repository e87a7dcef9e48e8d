"""SQL over the data folder: the views tell what the bank folds, and a query reaches nothing else."""

import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.history import checkpoint as snapshot
from pipeline.history import log as history
from pipeline.memory.bank import fold
from pipeline.memory.events import Decision, SourceOffset
from pipeline.query import run as query

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
REFUSED = "disabled (by|through) configuration|configuration has been locked|SELECT statement"
IDS = [f"{n:032x}" for n in range(4)]

actions = st.tuples(
    st.sampled_from(["learned", "superseded", "reinforced", "used", "evicted", "forgotten", "skipped"]),
    st.sampled_from(["ada", "bob"]),
    st.sampled_from(IDS),
    st.sampled_from(IDS),
)


def row(n: int, outcome: str, namespace: str, memory_id: str, nearest: str | None = None) -> Decision:
    made: dict[str, Any] = {}
    if outcome in ("learned", "superseded"):
        made = {
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
        importance=float(n),
        observed_at=NOW - timedelta(seconds=n * 37 % 11),
        **made,
    )


@given(
    st.lists(actions, max_size=40),
    st.integers(1, 7),
    st.sets(st.integers(0, 40)),
    st.sets(st.integers(0, 40)),
)
def test_memories_is_the_fold(
    script: list[tuple[str, str, str, str]], size: int, kept: set[int], merged: set[int]
) -> None:
    """Whatever snapshots are made, and files merged, meanwhile."""
    rows = [row(n, *action) for n, action in enumerate(script)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for sequence, start in enumerate(range(0, len(rows), size)):
            history.append(folder, 2, sequence, rows[start : start + size])
            if sequence in kept:
                bank = fold(rows[: start + size])
                assert snapshot.write(folder, 2, sequence, rows[start : start + size], bank)
            if sequence in merged and sequence > 1:
                history.merge(history.parts(folder, 2)[:-1], 1 << 20)
        told = query.run(folder, "SELECT * FROM memories ORDER BY namespace, memory_id").to_pylist()
    bank = fold(rows)
    expected = sorted(
        (m for namespace in bank.namespaces for m in bank.memories(namespace)),
        key=lambda m: (m.namespace, m.memory_id),
    )
    used = {(r.namespace, r.memory_id): r.decided_at for r in rows if r.outcome == "used"}
    assert len(told) == len(expected)
    for memory, of_sql in zip(expected, told, strict=True):
        last_used_at = of_sql.pop("last_used_at")
        assert last_used_at == (used[memory.namespace, memory.memory_id] if memory.uses else None)
        assert of_sql == {name: getattr(memory, name) for name in of_sql}


def test_views_are_empty_and_typed_before_the_first_file(tmp_path: Path) -> None:
    for view in ("history", "memories", "generations", "dead_letters"):
        assert query.run(tmp_path, f"SELECT * FROM {view}").num_rows == 0
    types = {r["column_name"]: r["column_type"] for r in query.run(tmp_path, "DESCRIBE memories").to_pylist()}
    history.append(tmp_path, 0, 0, [row(0, "learned", "ada", IDS[0])])
    later = query.run(tmp_path, "DESCRIBE memories").to_pylist()
    assert {r["column_name"]: r["column_type"] for r in later} == types


def test_history_has_the_cause_s_partition_and_its_own(tmp_path: Path) -> None:
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


def test_what_was_delivered_again_is_told_once(tmp_path: Path) -> None:
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
    history.append_dead_letters(tmp_path, [letter | {"time": NOW + timedelta(seconds=9)}], "a")
    history.append_dead_letters(tmp_path, [letter, letter | {"offset": 6}], "b")
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
    history.append_generations(tmp_path, [answer], "z")
    again = answer | {"text": "second", "answered_at": NOW + timedelta(seconds=1)}
    history.append_generations(tmp_path, [again], "a")
    assert query.run(tmp_path, "FROM generations SELECT text").to_pylist() == [{"text": "first"}]


@pytest.mark.parametrize(
    "sql",
    [
        "COPY (SELECT 1) TO '{data}/history/x.csv'",
        "EXPLAIN ANALYZE COPY (SELECT 1) TO '{data}/history/x.csv'",
        "ATTACH '{data}/history/x.db'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SET threads = 8",
        "PRAGMA database_list",
        "CREATE TABLE t AS SELECT 1",
        "DROP VIEW history",
        "SELECT 1; SELECT 2",
        "",
    ],
)
def test_only_one_reading_statement_is_run(tmp_path: Path, sql: str) -> None:
    (tmp_path / "history").mkdir()
    with pytest.raises(query.QueryError, match="only one statement"):
        query.run(tmp_path, sql.format(data=tmp_path))
    assert list((tmp_path / "history").iterdir()) == []


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM read_text('/etc/passwd')",
        "SELECT * FROM '{data}/secret.csv'",
        "SELECT * FROM read_csv('{data}/history/../secret.csv')",
        "SELECT * FROM read_csv('{data}/history_of_others/secret.csv')",
        "SELECT * FROM read_csv('{data}/history/link.csv')",
        "SELECT * FROM read_csv('{data}/history/folder/secret.csv')",
        "SELECT * FROM read_parquet('http://127.0.0.1:9/x.parquet')",
        "SELECT * FROM query('COPY (SELECT 1) TO ''{data}/history/x.csv''')",
        "COPY (SELECT 1) TO '{data}/x.csv'",
        "ATTACH '{data}/x.db'",
        "INSTALL httpfs",
        "SET threads = 8",
        "SET enable_external_access = true",
    ],
)
def test_the_connection_itself_reaches_only_its_folders(tmp_path: Path, sql: str) -> None:
    data = tmp_path / "data"
    for folder in (data / "history", data / "history_of_others"):
        folder.mkdir(parents=True)
    for secret in (data / "secret.csv", data / "history_of_others" / "secret.csv"):
        secret.write_text("a,b\n1,2\n")
    (data / "history" / "link.csv").symlink_to(data / "secret.csv")
    (data / "history" / "folder").symlink_to(data / "history_of_others")
    before = sorted(data.rglob("*"))
    with query.connect(data) as connection, pytest.raises(duckdb.Error, match=REFUSED):
        connection.execute(sql.format(data=data)).fetchall()
    assert sorted(data.rglob("*")) == before


def test_python_s_variables_are_no_tables(tmp_path: Path) -> None:
    secret = pq.read_table(history.append(tmp_path, 0, 0, [row(0, "learned", "ada", IDS[0])]))
    assert secret.num_rows == 1
    with pytest.raises(query.QueryError, match="secret"):
        query.run(tmp_path, "SELECT * FROM secret")


def test_a_query_without_end_is_stopped(tmp_path: Path) -> None:
    with pytest.raises(query.QueryError, match=r"longer than 0\.2 s"):
        query.run(
            tmp_path, "SELECT count(*) FROM range(1000000) a, range(1000000) b WHERE a.range < b.range", 0.2
        )


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT length(repeat('x', 4000000000))",  # heeds neither the interrupt nor the memory limit
        "SELECT jaccard(repeat('ab', 1000000000), repeat('ba', 1000000000))",
        "SELECT levenshtein(repeat('a', 2000000), repeat('b', 2000000))",
        "SELECT printf('%2000000000d', 1)",
    ],
)
def test_what_duckdb_does_not_stop_is_killed(tmp_path: Path, sql: str) -> None:
    with pytest.raises(query.QueryError, match=r"longer than 0\.5 s|GiB of memory|[Mm]emory|allocat"):
        query.run_confined(tmp_path, sql, 0.5)


def test_a_confined_query_answers_as_any_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    history.append(tmp_path, 0, 0, [row(0, "learned", "ada", IDS[0])])
    sql = "SELECT text, learned_at, loss_delta FROM memories"
    assert query.run_confined(tmp_path, sql).equals(query.run(tmp_path, sql))
    for bad, said in (
        ("SELEC 1", "syntax"),
        ("SELECT nonsense", "nonsense"),
        ("FROM read_text('/etc/passwd')", "disabled"),
    ):
        with pytest.raises(query.QueryError, match=said):
            query.run_confined(tmp_path, bad)
    assert query.run_confined(tmp_path, "SELECT 'ü\u2028' AS a WHERE false").num_rows == 0


def test_a_result_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(query, "MAX_RESULT_BYTES", 1 << 20)
    assert query.run(tmp_path, "FROM range(1000)").num_rows == 1000
    with pytest.raises(query.QueryError, match="LIMIT"):
        query.run(tmp_path, "FROM range(1000000000000)")


def test_errors_in_the_query_are_told(tmp_path: Path) -> None:
    with pytest.raises(query.QueryError, match="nonsense"):
        query.run(tmp_path, "SELECT nonsense FROM memories")
    with pytest.raises(query.QueryError, match="syntax"):
        query.run(tmp_path, "SELEC 1")


def test_a_newer_history_is_refused(tmp_path: Path) -> None:
    path = history.append(tmp_path, 0, 0, [row(0, "learned", "ada", IDS[0])])
    table = pq.read_table(path, partitioning=None)
    pq.write_table(table.replace_schema_metadata({b"factstream.history": b"3"}), path)
    with pytest.raises(query.QueryError, match="upgrade"):
        query.run(tmp_path, "FROM memories")
