"""Queries: one reading statement, bounded in time and size, that reaches the data folder only."""

from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest

from pipeline.history import log as history
from pipeline.query import run as query
from tests.query.test_views import IDS, row

REFUSED = "disabled (by|through) configuration|configuration has been locked|SELECT statement"


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
def test_the_connection_reaches_only_its_folders(tmp_path: Path, sql: str) -> None:
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


def test_python_variables_are_not_tables(tmp_path: Path) -> None:
    secret = pq.read_table(history.append(tmp_path, 0, 0, [row(0, "learned", "ada", IDS[0])]))
    assert secret.num_rows == 1
    with pytest.raises(query.QueryError, match="secret"):
        query.run(tmp_path, "SELECT * FROM secret")


@pytest.mark.parametrize("timeout_s", [0.0, 0.2])  # before the query begins, and while it runs
def test_a_slow_query_is_stopped(tmp_path: Path, timeout_s: float) -> None:
    with pytest.raises(query.QueryError, match=rf"longer than {timeout_s:g} s"):
        query.run(
            tmp_path,
            "SELECT count(*) FROM range(1000000) a, range(1000000) b WHERE a.range < b.range",
            timeout_s,
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
def test_a_query_that_ignores_the_interrupt_is_killed(tmp_path: Path, sql: str) -> None:
    with pytest.raises(query.QueryError, match=r"longer than 0\.5 s|GiB of memory|[Mm]emory|allocat"):
        query.run_confined(tmp_path, sql, 0.5)


def test_a_confined_query_gives_the_same_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    history.append(tmp_path, 0, 0, [row(0, "learned", "ada", IDS[0])])
    sql = "SELECT text, learned_at, loss_delta FROM memories"
    assert query.run_confined(tmp_path, sql).equals(query.run(tmp_path, sql))
    for bad, message in (
        ("SELEC 1", "syntax"),
        ("SELECT nonsense", "nonsense"),
        ("FROM read_text('/etc/passwd')", "disabled"),
    ):
        with pytest.raises(query.QueryError, match=message):
            query.run_confined(tmp_path, bad)
    assert query.run_confined(tmp_path, "SELECT 'ü\u2028' AS a WHERE false").num_rows == 0


def test_a_result_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(query, "MAX_RESULT_BYTES", 1 << 20)
    assert query.run(tmp_path, "FROM range(1000)").num_rows == 1000
    with pytest.raises(query.QueryError, match="LIMIT"):
        query.run(tmp_path, "FROM range(1000000000000)")


def test_errors_in_the_sql_are_reported(tmp_path: Path) -> None:
    with pytest.raises(query.QueryError, match="nonsense"):
        query.run(tmp_path, "SELECT nonsense FROM memories")
    with pytest.raises(query.QueryError, match="syntax"):
        query.run(tmp_path, "SELEC 1")


def test_a_newer_history_is_refused(tmp_path: Path) -> None:
    path = history.append(tmp_path, 0, 0, [row(0, "learned", "ada", IDS[0])])
    table = pq.read_table(path, partitioning=None)
    pq.write_table(table.replace_schema_metadata({b"factstream.history": b"4"}), path)
    with pytest.raises(query.QueryError, match="upgrade"):
        query.run(tmp_path, "FROM memories")
