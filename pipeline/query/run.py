"""SQL queries over the data folder: one reading statement, with limits of time and result size.

`run` runs the query in this process, `run_confined` in a process of its own, for SQL that others wrote.
"""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from pipeline.history.errors import HistoryError
from pipeline.query import sandbox, views

TIMEOUT_S = 30.0
MAX_RESULT_BYTES = 256 * 1024 * 1024
GRACE_S = 3.0
"""Seconds for a confined query to start, and to respect the interrupt, before its process is killed."""
_ATTEMPTS = 5
_REFUSED = 3  # exit code of a confined query's process when the query has an error, which is on stderr


class QueryError(Exception):
    """The query is wrong, not allowed, too slow or too large; the text tells which."""


class _FilesChanged(QueryError):
    """A listed file was removed meanwhile, by compaction or an erasure: list the files again."""


def connect(data: Path) -> duckdb.DuckDBPyConnection:
    """An in-memory DuckDB with the views of the files that exist now, in the sandbox.

    Raises `QueryError`, also where the history has a newer format.
    """
    data = data.resolve()
    try:
        files = views.history_files(data)
    except HistoryError as error:
        gone = isinstance(error.__cause__, FileNotFoundError)
        raise (_FilesChanged if gone else QueryError)(str(error)) from error
    connection = sandbox.open_connection(data)
    try:
        views.create_views(connection, data, files)
    except duckdb.Error as error:
        connection.close()
        raise _query_error(error, f"{data}: {error}") from error
    except BaseException:
        connection.close()
        raise
    return connection


def run(
    data: Path, sql: str, timeout_s: float = TIMEOUT_S, parameters: Mapping[str, object] | None = None
) -> pa.Table:
    """The result of one SELECT (or FROM, WITH, VALUES, DESCRIBE, SUMMARIZE, SHOW) over the views.

    `parameters`: the values of `$name` in the statement.

    Raises `QueryError` for anything else, for an error in it, and when it takes longer than `timeout_s` seconds or
    gives more than `MAX_RESULT_BYTES`.
    """
    try:
        statements = duckdb.extract_statements(sql)
    except duckdb.Error as error:
        raise QueryError(str(error)) from error
    if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
        raise QueryError("only one statement that reads is run: SELECT, FROM, WITH, VALUES, DESCRIBE or SHOW")
    end = time.monotonic() + timeout_s
    for attempt in range(_ATTEMPTS):
        try:
            connection = connect(data)
            with _interrupt(connection, end) as late:
                return _result(connection, sql, parameters, late, timeout_s)
        except _FilesChanged:
            if attempt == _ATTEMPTS - 1:
                raise
    raise AssertionError("not reached")


def run_confined(data: Path, sql: str, timeout_s: float = TIMEOUT_S) -> pa.Table:
    """As `run`, in a process of its own, which is killed when it does not end in time.

    The process has the limits of `sandbox.limit_process` and nothing of our environment. Takes a third of a second longer.

    Raises `QueryError`.
    """
    command = [sys.executable, "-m", "pipeline.query.run", str(data), str(timeout_s)]
    env = {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path), "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(command, input=sql.encode("utf-8", "replace"), capture_output=True, env=env,
                              timeout=timeout_s + GRACE_S)  # fmt: skip
    except subprocess.TimeoutExpired:
        raise _too_long(timeout_s) from None
    if done.returncode == _REFUSED:
        raise QueryError(done.stderr.decode("utf-8", "replace"))
    if done.returncode:
        limit = sandbox.MAX_PROCESS_BYTES >> 30
        raise QueryError(f"the query needed more than {limit} GiB of memory, or broke DuckDB")
    with pa.ipc.open_stream(done.stdout) as reader:
        return reader.read_all()


def _result(
    connection: duckdb.DuckDBPyConnection,
    sql: str,
    parameters: Mapping[str, object] | None,
    late: threading.Event,
    timeout_s: float,
) -> pa.Table:
    try:
        reader: Any = connection.sql(sql, params=parameters).to_arrow_reader()
        batches, size = [], 0
        for batch in reader:
            size += batch.nbytes
            if late.is_set():
                break
            if size > MAX_RESULT_BYTES:
                raise QueryError(f"the result has more than {MAX_RESULT_BYTES >> 20} MiB; add a LIMIT")
            batches.append(batch)
    except (duckdb.Error, pa.ArrowException, OSError) as error:
        raise (_too_long(timeout_s) if late.is_set() else _query_error(error, str(error))) from error
    if late.is_set():
        raise _too_long(timeout_s)
    return pa.Table.from_batches(batches, reader.schema)


@contextmanager
def _interrupt(connection: duckdb.DuckDBPyConnection, end: float) -> Iterator[threading.Event]:
    """Interrupts the connection once the monotonic clock reaches `end`, and sets the event. Closes it after the block.

    It interrupts again and again: DuckDB forgets an interrupt that comes between two statements.
    """
    late, over = threading.Event(), threading.Event()

    def interrupt() -> None:
        wait_s = max(0.0, end - time.monotonic())
        while not over.wait(wait_s):
            late.set()
            connection.interrupt()
            wait_s = 0.05

    thread = threading.Thread(target=interrupt, daemon=True)
    thread.start()
    try:
        yield late
    finally:
        over.set()
        thread.join()  # an interrupt must not meet a closed connection
        connection.close()


def _query_error(error: Exception, text: str) -> QueryError:
    return _FilesChanged(text) if isinstance(error, duckdb.IOException) else QueryError(text)


def _too_long(timeout_s: float) -> QueryError:
    return QueryError(f"the query took longer than {timeout_s:g} s and was stopped")


def _confined() -> int:
    """The process of a confined query: SQL on stdin; an Arrow stream on stdout, or the error on stderr."""
    sandbox.limit_process()
    try:
        table = run(Path(sys.argv[1]), sys.stdin.buffer.read().decode(), float(sys.argv[2]))
        with pa.ipc.new_stream(sys.stdout.buffer, table.schema) as writer:
            writer.write_table(table)
        return 0
    except QueryError as error:
        print(error, end="", file=sys.stderr)
        return _REFUSED


if __name__ == "__main__":
    sys.exit(_confined())
