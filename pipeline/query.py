"""SQL over the data folder: DuckDB views of the history, the memories, the generations and the dead letters.

`memories` is the bank's fold said in SQL, and `memories_at(time)` the fold of what was decided by then. A query reads the
three sub-folders of the data folder and nothing else, writes nothing, and ends: its memory, its time and its result are
bounded. Of DuckDB's functions some heed neither an interrupt nor its memory limit, so `run_confined`, in a process of its
own, is the one for SQL of others. Knows no writer and no Kafka.
"""

import os
import resource
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from pipeline import history
from schemas.dead_letter import DEAD_LETTERS
from schemas.history import GENERATIONS, HISTORY

TIMEOUT_S = 30.0
MAX_RESULT_BYTES = 256 * 1024 * 1024
MAX_PROCESS_BYTES = 4 * 1024 * 1024 * 1024
"""Address space of a confined query: DuckDB's 1 GB, the result, and the libraries themselves."""
GRACE_S = 3.0
"""For a confined query to start, and to heed the interrupt, before its process is killed."""

_DIGITS = "[0-9]" * 10

_HISTORY = f"""
CREATE VIEW history AS
SELECT * EXCLUDE (priors, surprisals, vectors, filename, file_row_number),
    -- The fold's order. `partition` is that of the record which caused the row, this one the history's own.
    CAST(regexp_extract(filename, 'partition=([0-9]+)', 1) AS INTEGER) AS history_partition,
    CAST(regexp_extract(filename, '([0-9]+)[.]parquet$', 1) AS BIGINT) * {history.MAX_ROWS}
        + file_row_number AS history_position
FROM ({{source}})
"""

_MEMORIES = """
CREATE MACRO memories_at(moment) AS TABLE
WITH told AS (
    SELECT * FROM history WHERE decided_at <= CAST(moment AS TIMESTAMPTZ)
), made AS (
    SELECT * FROM told WHERE outcome IN ('learned', 'superseded')
    QUALIFY row_number() OVER (
        PARTITION BY history_partition, namespace, memory_id ORDER BY history_position DESC) = 1
), gone AS (
    SELECT history_partition, namespace, memory_id, history_position FROM told
    WHERE outcome IN ('evicted', 'forgotten', 'erased')
    UNION ALL
    SELECT history_partition, namespace, nearest, history_position FROM told
    WHERE outcome = 'superseded'
), live AS (
    SELECT * FROM made ANTI JOIN gone ON made.history_partition = gone.history_partition
        AND made.namespace = gone.namespace AND made.memory_id = gone.memory_id
        AND gone.history_position > made.history_position
), touched AS (
    SELECT live.history_partition, live.namespace, live.memory_id,
        count(*) FILTER (WHERE touch.outcome = 'used') AS uses,
        count(*) FILTER (WHERE touch.outcome = 'reinforced') AS reinforced,
        max(touch.decided_at) FILTER (WHERE touch.outcome = 'used') AS last_used_at,
        max(touch.observed_at) FILTER (WHERE touch.outcome = 'reinforced') AS observed_at,
        arg_max(touch.importance, touch.history_position) AS importance
    FROM live JOIN told AS touch ON touch.history_partition = live.history_partition
        AND touch.namespace = live.namespace AND touch.memory_id = live.memory_id
        AND touch.history_position > live.history_position
    WHERE touch.outcome IN ('used', 'reinforced')
    GROUP BY ALL
)
SELECT live.memory_id, live.namespace, live.text, live.category, live.source, live.fact_id,
    greatest(live.observed_at, touched.observed_at) AS observed_at, live.decided_at AS learned_at, live.loss_delta,
    coalesce(touched.importance, live.importance) AS importance,
    coalesce(touched.uses, 0) AS uses, coalesce(touched.reinforced, 0) AS reinforced,
    touched.last_used_at, live.encoder_id
FROM live LEFT JOIN touched USING (history_partition, namespace, memory_id);
CREATE VIEW memories AS FROM memories_at('infinity');
"""

# A record that is delivered again is answered, or dead-lettered, again. The first time counts. The bytes tell apart
# records of two brokers, of which both began at offset 0. Rows are chosen by hashes first, for the bytes of all may not
# fit in memory.
_GENERATIONS = """
CREATE VIEW generations AS SELECT * EXCLUDE (filename, file_row_number) FROM ({source})
QUALIFY row_number() OVER (PARTITION BY request_id, "partition", "offset" ORDER BY answered_at, filename) = 1
"""
_DEAD_LETTERS = """
CREATE VIEW dead_letters AS SELECT * EXCLUDE (filename, file_row_number) FROM ({source}) AS letters
SEMI JOIN (
    SELECT filename, file_row_number FROM (
        SELECT topic, "partition", "offset", md5(key) AS key, md5(value) AS value, time, filename, file_row_number
        FROM ({source}))
    QUALIFY row_number() OVER (PARTITION BY topic, "partition", "offset", key, value ORDER BY time, filename) = 1
) AS first USING (filename, file_row_number)
"""


class QueryError(Exception):
    """The query is wrong, not allowed or too large; the text says which."""


def connect(data: Path) -> duckdb.DuckDBPyConnection:
    """An in-memory DuckDB with the views `history`, `memories`, `generations` and `dead_letters`, and `memories_at(time)`.

    It can reach the data folder's three sub-folders only, and its configuration is locked. The views see files that come
    later, once there was a first one of their kind. Raises `QueryError` where the history is of a newer version.
    """
    data = data.resolve()
    try:
        for partition in history.partitions(data):
            if (last := history.last_sequence(data, partition)) >= 0:
                folder = data / history.HISTORY_FOLDER / f"partition={partition}"
                history.check_version(folder / f"{last:010d}.parquet")
    except history.HistoryError as error:
        raise QueryError(str(error)) from error
    connection = duckdb.connect(
        ":memory:",
        config={
            "memory_limit": "1GB",
            "threads": 2,
            "temp_directory": "",  # nothing spills to a disk
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
        },
    )
    try:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute("SET python_enable_replacements = false")  # a table is no Python variable
        folders = [history.HISTORY_FOLDER, history.GENERATIONS_FOLDER, history.DEAD_LETTERS_FOLDER]
        # DuckDB compares a pattern as it is written with these, and what it finds as well.
        allowed = ", ".join(
            _quoted(f"{form}/{folder}/")
            for folder in folders
            for form in dict.fromkeys((str(data), _literal(data)))
        )
        connection.execute(f"SET allowed_directories = [{allowed}]")
        connection.execute("SET enable_external_access = false")
        for view, name, pattern, schema in (
            (_HISTORY, folders[0], f"partition=*/{_DIGITS}.parquet", HISTORY),
            (_GENERATIONS, folders[1], "*.parquet", GENERATIONS),
            (_DEAD_LETTERS, folders[2], "*.parquet", DEAD_LETTERS),
        ):
            source = _source(connection, data / name, pattern, schema)
            connection.execute(view.format(source=source))
        connection.execute(_MEMORIES)
        connection.execute("SET lock_configuration = true")
    except duckdb.Error as error:
        connection.close()
        raise QueryError(f"{data}: {error}") from error
    except BaseException:
        connection.close()
        raise
    return connection


def run(data: Path, sql: str, timeout_s: float = TIMEOUT_S) -> pa.Table:
    """The result of one SELECT (or FROM, WITH, VALUES, DESCRIBE, SUMMARIZE, SHOW) over the views.

    Raises `QueryError` for anything else, for an error in it, and when it takes longer than `timeout_s` seconds or
    gives more than `MAX_RESULT_BYTES`.
    """
    try:
        statements = duckdb.extract_statements(sql)
    except duckdb.Error as error:
        raise QueryError(str(error)) from error
    if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
        raise QueryError("only one statement that reads is run: SELECT, FROM, WITH, VALUES, DESCRIBE or SHOW")
    connection = connect(data)
    late = threading.Event()

    def stop() -> None:
        late.set()
        connection.interrupt()

    timer = threading.Timer(timeout_s, stop)
    timer.daemon = True
    timer.start()
    try:
        reader: Any = connection.sql(sql).to_arrow_reader()
        batches, size = [], 0
        for batch in reader:
            size += batch.nbytes
            if late.is_set():
                break
            if size > MAX_RESULT_BYTES:
                raise QueryError(f"the result has more than {MAX_RESULT_BYTES >> 20} MiB; add a LIMIT")
            batches.append(batch)
        if late.is_set():
            raise QueryError(f"the query took longer than {timeout_s:g} s and was stopped")
        return pa.Table.from_batches(batches, reader.schema)
    except (duckdb.Error, pa.ArrowException, OSError) as error:
        if late.is_set():
            raise QueryError(f"the query took longer than {timeout_s:g} s and was stopped") from error
        raise QueryError(str(error)) from error
    finally:
        timer.cancel()
        timer.join()  # an interrupt must not meet a closed connection
        connection.close()


def run_confined(data: Path, sql: str, timeout_s: float = TIMEOUT_S) -> pa.Table:
    """As `run`, but in a process of its own: it is killed when it does not end in time, and gets no more memory than
    `MAX_PROCESS_BYTES`, no file to write, and none of our environment. Takes a third of a second more."""
    command = [sys.executable, "-m", "pipeline.query", str(data), str(timeout_s)]
    env = {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path), "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(command, input=sql.encode("utf-8", "replace"), capture_output=True, env=env,
                              timeout=timeout_s + GRACE_S)  # fmt: skip
    except subprocess.TimeoutExpired:
        raise QueryError(f"the query took longer than {timeout_s:g} s and was stopped") from None
    if done.returncode == _REFUSED:
        raise QueryError(done.stderr.decode("utf-8", "replace"))
    if done.returncode:
        raise QueryError(
            f"the query needed more than {MAX_PROCESS_BYTES >> 30} GiB of memory, or broke DuckDB"
        )
    with pa.ipc.open_stream(done.stdout) as reader:
        return reader.read_all()


_REFUSED = 3  # exit code


def _confined() -> int:
    """The process of a confined query: SQL on stdin; an Arrow stream on stdout, or the error on stderr."""
    resource.setrlimit(resource.RLIMIT_AS, (MAX_PROCESS_BYTES, MAX_PROCESS_BYTES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        table = run(Path(sys.argv[1]), sys.stdin.buffer.read().decode(), float(sys.argv[2]))
        with pa.ipc.new_stream(sys.stdout.buffer, table.schema) as writer:
            writer.write_table(table)
        return 0
    except QueryError as error:
        print(error, end="", file=sys.stderr)
        return _REFUSED


def _source(connection: duckdb.DuckDBPyConnection, folder: Path, pattern: str, schema: pa.Schema) -> str:
    """A SELECT of the folder's files, or of no rows with the same columns while there are none."""
    if any(folder.glob(pattern)):
        return (
            f"SELECT * FROM read_parquet({_quoted(f'{_literal(folder)}/{pattern}')}, hive_partitioning = false, "
            "union_by_name = true, filename = true, file_row_number = true)"
        )
    empty = f"no_{folder.name}"
    connection.register("no_rows", schema.empty_table())
    connection.execute(f"CREATE TABLE {empty} AS FROM no_rows")
    connection.unregister("no_rows")
    return f"SELECT *, '' AS filename, 0::BIGINT AS file_row_number FROM {empty}"


def _literal(folder: Path) -> str:
    """The path as a glob pattern that means this folder and no other."""
    return "".join(f"[{char}]" if char in "*?[" else char for char in str(folder))


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


if __name__ == "__main__":
    sys.exit(_confined())
