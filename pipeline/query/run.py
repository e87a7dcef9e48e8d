"""SQL queries over the data folder: one reading statement, with limits of time and result size.

`run` runs the query in this process, `run_confined` in a process of its own, for SQL that others wrote. `stream` yields the rows
of a query of ours that may have any number of them. Values come as parameters ($name in the SQL), never as parts of the SQL.
"""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from pipeline.history import layout
from pipeline.history.errors import HistoryError
from pipeline.query import sandbox, views
from pipeline.store.opening import store_at

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


Parameters = Mapping[str, object]
"""The value of each $name in a query."""


def connect(data: Path, partition: int | None = None) -> duckdb.DuckDBPyConnection:
    """An in-memory DuckDB with the views of the files that exist now, of all partitions or of one, in the sandbox.

    Raises `QueryError`, also where the history has a newer format.
    """
    data = data.resolve()
    try:
        files = views.history_files(data, partition)
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


def run(data: Path, sql: str, timeout_s: float = TIMEOUT_S, parameters: Parameters | None = None) -> pa.Table:
    """The result of one SELECT (or FROM, WITH, VALUES, DESCRIBE, SUMMARIZE, SHOW) over the views.

    `parameters`: the values of `$name` in the statement.

    Raises `QueryError` for anything else, for an error in it, and when it takes longer than `timeout_s` seconds or
    gives more than `MAX_RESULT_BYTES`.
    """
    with _viewed(data, sql) as folder:
        return _run(folder, sql, timeout_s, parameters)


def _run(data: Path, sql: str, timeout_s: float, parameters: Parameters | None) -> pa.Table:
    """The same as `run`, over the files in a folder."""
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


def stream(
    data: Path, sql: str, parameters: Parameters, partition: int, rows: int
) -> Iterator[pa.RecordBatch]:
    """The result of a SELECT over the views of one partition, in batches of about so many rows, without a limit of time.

    Raises `QueryError`, also where it needs more memory than DuckDB may take.
    """
    with _viewed(data, "", partition) as folder:
        yield from _stream(folder, sql, parameters, partition, rows)


def _stream(
    data: Path, sql: str, parameters: Parameters, partition: int, rows: int
) -> Iterator[pa.RecordBatch]:
    begun = False
    for attempt in range(_ATTEMPTS):
        try:
            with connect(data, partition) as connection:
                for batch in connection.sql(sql, params=dict(parameters)).to_arrow_reader(rows):
                    begun = True
                    yield batch
            return
        except (duckdb.Error, pa.ArrowException, OSError) as error:
            failed = _query_error(error, str(error))
        except _FilesChanged as error:
            failed = error
        if begun or not isinstance(failed, _FilesChanged) or attempt == _ATTEMPTS - 1:
            raise failed


def run_confined(
    data: Path, sql: str, timeout_s: float = TIMEOUT_S, parameters: Parameters | None = None
) -> pa.Table:
    """The same as `run`, in a process of its own, which is killed when it does not end in time.

    The process has the limits of `sandbox.limit_process` and nothing of our environment. Takes a third of a second longer.

    Raises `QueryError`.
    """
    with _viewed(data, sql) as folder:
        return _run_confined(folder, sql, timeout_s, parameters)


def _run_confined(data: Path, sql: str, timeout_s: float, parameters: Parameters | None) -> pa.Table:
    command = [sys.executable, "-m", "pipeline.query.run", str(data), str(timeout_s)]
    env = {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path), "OMP_NUM_THREADS": "1"}
    try:
        query = json.dumps([sql, dict(parameters or {})], ensure_ascii=False).encode("utf-8", "replace")
        done = subprocess.run(command, input=query, capture_output=True, env=env, timeout=timeout_s + GRACE_S)
    except subprocess.TimeoutExpired:
        raise _too_long(timeout_s) from None
    if done.returncode == _REFUSED:
        raise QueryError(done.stderr.decode("utf-8", "replace"))
    if done.returncode:
        limit = sandbox.MAX_PROCESS_BYTES >> 30
        raise QueryError(f"the query needed more than {limit} GiB of memory, or broke DuckDB")
    with pa.ipc.open_stream(done.stdout) as reader:
        return reader.read_all()


@contextmanager
def _viewed(data: Path, sql: str, partition: int | None = None) -> Iterator[Path]:
    """The folder with the files that the query may read: answers and dead letters only where it names them."""
    rows = any(name in sql.lower() for name in (layout.GENERATIONS_FOLDER, layout.DEAD_LETTERS_FOLDER))
    with ExitStack() as reading:
        try:
            folder = reading.enter_context(store_at(data).view(partition, rows))
        except HistoryError as error:
            raise QueryError(str(error)) from error
        yield folder


def _result(
    connection: duckdb.DuckDBPyConnection,
    sql: str,
    parameters: Parameters | None,
    late: threading.Event,
    timeout_s: float,
) -> pa.Table:
    try:
        reader: Any = connection.sql(sql, params=dict(parameters) if parameters else None).to_arrow_reader()
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
    """The process of a confined query: SQL and parameters on stdin; an Arrow stream on stdout, or the error on stderr."""
    sandbox.limit_process()
    try:
        sql, parameters = json.loads(sys.stdin.buffer.read())
        table = _run(Path(sys.argv[1]), sql, float(sys.argv[2]), parameters)
        with pa.ipc.new_stream(sys.stdout.buffer, table.schema) as writer:
            writer.write_table(table)
        return 0
    except QueryError as error:
        print(error, end="", file=sys.stderr)
        return _REFUSED


if __name__ == "__main__":
    sys.exit(_confined())
