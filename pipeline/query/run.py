"""SQL over the data folder: DuckDB views of the history, the memories, the generations and the dead letters.

`memories` is the bank's fold said in SQL, from the newest snapshot on, and `memories_at(time)` the fold of what was
decided by then. A query reads the three sub-folders of the data folder and nothing else, writes nothing, and ends: its
memory, its time and its result are bounded. Of DuckDB's functions some heed neither an interrupt nor its memory limit, so
`run_confined`, in a process of its own, is the one for SQL of others. Knows no writer and no Kafka.
"""

import os
import resource
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from pipeline.history import checkpoint as snapshot
from pipeline.history import log as history
from schemas.dead_letter import DEAD_LETTERS
from schemas.history import CHECKPOINT, GENERATIONS, HISTORY

TIMEOUT_S = 30.0
MAX_RESULT_BYTES = 256 * 1024 * 1024
MAX_PROCESS_BYTES = 4 * 1024 * 1024 * 1024
"""Address space of a confined query: DuckDB's 1 GB, the result, and the libraries themselves."""
_ATTEMPTS = 5
GRACE_S = 3.0
"""For a confined query to start, and to heed the interrupt, before its process is killed."""

# The fold's order. `partition` is that of the record which caused the row, this one the history's own.
_PARTITION = "CAST(regexp_extract(filename, 'partition=([0-9]+)', 1) AS INTEGER)"
_PLACE = f"""{_PARTITION} AS history_partition,
    CAST(regexp_extract(filename, '([0-9]+)(-[0-9]+)?[.]parquet$', 1) AS BIGINT) * {history.MAX_ROWS}
        + file_row_number AS history_position"""

_HISTORY = f"""
CREATE VIEW history AS
SELECT * EXCLUDE (priors, surprisals, vectors, filename, file_row_number), {_PLACE}
FROM ({{source}})
"""

# The fold, said in SQL, of what `told` has. `known` are memories from before: one that a later row makes has left before that.
_FOLD = """
made AS (
    SELECT * FROM told WHERE outcome IN ('learned', 'superseded')
), gone AS (  -- or made anew
    SELECT history_partition, namespace, memory_id, history_position FROM told
    WHERE outcome IN ('evicted', 'forgotten', 'erased', 'learned', 'superseded')
    UNION ALL
    SELECT history_partition, namespace, nearest, history_position FROM told
    WHERE outcome = 'superseded'
), every AS (
    FROM known
    UNION ALL
    SELECT history_partition, history_position, memory_id, namespace, text, category, source, fact_id, observed_at,
        decided_at, loss_delta, importance, 0, 0, NULL, encoder_id
    FROM made
), live AS (
    SELECT * FROM every ANTI JOIN gone ON every.history_partition = gone.history_partition
        AND every.namespace = gone.namespace AND every.memory_id = gone.memory_id
        AND gone.history_position > every.history_position
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
    greatest(live.observed_at, touched.observed_at) AS observed_at, live.learned_at,
    live.loss_delta::FLOAT AS loss_delta, coalesce(touched.importance, live.importance)::FLOAT AS importance,
    (live.uses + coalesce(touched.uses, 0))::BIGINT AS uses,
    (live.reinforced + coalesce(touched.reinforced, 0))::BIGINT AS reinforced,
    greatest(live.last_used_at, touched.last_used_at) AS last_used_at, live.encoder_id
FROM live LEFT JOIN touched USING (history_partition, namespace, memory_id)
"""

# Since the newest snapshot.
_MEMORIES = f"""
CREATE VIEW memories AS
WITH told AS (
    SELECT * FROM (SELECT * EXCLUDE (priors, surprisals, vectors, filename, file_row_number), {_PLACE} FROM ({{later}}))
    JOIN (VALUES {{since}}) AS since(history_partition, since) USING (history_partition)
    WHERE history_position >= since
), known AS (
    SELECT history_partition, -1 AS history_position, memory_id, namespace, text, category, source, fact_id, observed_at,
        learned_at, loss_delta, importance, uses, reinforced, last_used_at, encoder_id
    FROM (SELECT *, {_PARTITION} AS history_partition FROM ({{kept}}))
), {_FOLD}
"""

# A moment may be before any snapshot: from the beginning.
_MEMORIES_AT = f"""
CREATE MACRO memories_at(moment) AS TABLE
WITH told AS (
    SELECT * FROM history WHERE decided_at <= CAST(moment AS TIMESTAMPTZ)
), known AS (
    SELECT history_partition, history_position, memory_id, namespace, text, category, source, fact_id, observed_at,
        decided_at AS learned_at, loss_delta, importance, 0 AS uses, 0 AS reinforced, CAST(NULL AS TIMESTAMPTZ) AS last_used_at,
        encoder_id
    FROM told WHERE false
), {_FOLD}
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


class _Gone(QueryError):
    """A file that was listed has been merged, or erased from, and removed: a second look finds what is instead."""


def connect(data: Path) -> duckdb.DuckDBPyConnection:
    """An in-memory DuckDB with the views `history`, `memories`, `generations` and `dead_letters`, and `memories_at(time)`.

    It can reach the data folder's three sub-folders only, and its configuration is locked. The views are of the files that
    there are now. Raises `QueryError` where the history is of a newer version.
    """
    data = data.resolve()
    decided, later, kept = list[Path](), list[Path](), list[Path]()
    since: dict[int, int] = {}
    try:
        for partition in history.partitions(data):
            if parts := history.parts(data, partition):
                decided += (part.path for part in parts)
                history.check_version(decided[-1])
                found = snapshot.newest(data, partition, parts)
                since[partition] = found.position if found else 0
                kept += [found.path] if found else []
                later += (part.path for part in parts if not found or part.last > found.sequence)
    except history.HistoryError as error:
        raise (_Gone if decided and not decided[-1].exists() else QueryError)(str(error)) from error
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
        connection.execute("SET enable_progress_bar = false")  # which `python -c` and notebooks would get
        folders = [history.HISTORY_FOLDER, history.GENERATIONS_FOLDER, history.DEAD_LETTERS_FOLDER]
        # DuckDB compares a pattern as it is written with these, and what it finds as well.
        allowed = ", ".join(
            _quoted(f"{form}/{folder}/")
            for folder in folders
            for form in dict.fromkeys((str(data), _literal(data)))
        )
        connection.execute(f"SET allowed_directories = [{allowed}]")
        connection.execute("SET enable_external_access = false")
        for view, name, files, schema in (
            (_HISTORY, folders[0], _these(decided), HISTORY),
            (_GENERATIONS, folders[1], _any(data / folders[1]), GENERATIONS),
            (_DEAD_LETTERS, folders[2], _any(data / folders[2]), DEAD_LETTERS),
        ):
            source = _source(connection, name, files, schema)
            connection.execute(view.format(source=source))
        memories = _MEMORIES.format(
            later=_source(connection, "later", _these(later), HISTORY),
            kept=_source(connection, "kept", _these(kept), CHECKPOINT),
            since=", ".join(f"({n}, {place})" for n, place in since.items()) or "(0, 0)",
        )
        connection.execute(memories)
        connection.execute(_MEMORIES_AT)
        connection.execute("SET lock_configuration = true")
    except duckdb.Error as error:
        connection.close()
        raise (_Gone if isinstance(error, duckdb.IOException) else QueryError)(f"{data}: {error}") from error
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
    until = time.monotonic() + timeout_s
    for attempt in range(_ATTEMPTS):
        try:
            return _run(data, sql, timeout_s, until)
        except _Gone:
            if attempt == _ATTEMPTS - 1:
                raise
    raise AssertionError("not reached")


def _run(data: Path, sql: str, timeout_s: float, until: float) -> pa.Table:
    connection = connect(data)
    late = threading.Event()

    def stop() -> None:
        late.set()
        connection.interrupt()

    timer = threading.Timer(max(0.0, until - time.monotonic()), stop)
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
        raise (_Gone if isinstance(error, duckdb.IOException) else QueryError)(str(error)) from error
    finally:
        timer.cancel()
        timer.join()  # an interrupt must not meet a closed connection
        connection.close()


def run_confined(data: Path, sql: str, timeout_s: float = TIMEOUT_S) -> pa.Table:
    """As `run`, but in a process of its own: it is killed when it does not end in time, and gets no more memory than
    `MAX_PROCESS_BYTES`, no file to write, and none of our environment. Takes a third of a second more."""
    command = [sys.executable, "-m", "pipeline.query.run", str(data), str(timeout_s)]
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


def _source(connection: duckdb.DuckDBPyConnection, name: str, files: list[str], schema: pa.Schema) -> str:
    """A SELECT of the files, given as patterns, or of no rows with the same columns while there are none."""
    if files:
        return (
            f"SELECT * FROM read_parquet([{', '.join(map(_quoted, files))}], hive_partitioning = false, "
            f"union_by_name = {schema is not HISTORY}, filename = true, file_row_number = true)"
        )
    empty = f"no_{name}"
    connection.register("no_rows", schema.empty_table())
    connection.execute(f"CREATE TABLE {empty} AS FROM no_rows")
    connection.unregister("no_rows")
    return f"SELECT *, '' AS filename, 0::BIGINT AS file_row_number FROM {empty}"


def _these(paths: list[Path]) -> list[str]:
    return [f"{_literal(path.parent)}/{path.name}" for path in paths]


def _any(folder: Path) -> list[str]:
    return [f"{_literal(folder)}/*.parquet"] if any(folder.glob("*.parquet")) else []


def _literal(folder: Path) -> str:
    """The path as a glob pattern that means this folder and no other."""
    return "".join(f"[{char}]" if char in "*?[" else char for char in str(folder))


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


if __name__ == "__main__":
    sys.exit(_confined())
