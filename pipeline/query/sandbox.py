"""Sandbox of queries: a DuckDB connection that reaches three folders only, and limits for a process.

A query reads no other file, no network and no Python variable, writes nothing, and cannot change these settings. Its memory
is bounded. Some of DuckDB's functions respect neither an interrupt nor its memory limit: SQL that others wrote runs in a
process with limits (`run_confined`).
"""

import resource
from pathlib import Path

import duckdb

from pipeline.history.layout import DEAD_LETTERS_FOLDER, GENERATIONS_FOLDER, HISTORY_FOLDER

MEMORY_LIMIT = "1GB"
THREADS = 2
MAX_PROCESS_BYTES = 4 * 1024 * 1024 * 1024
"""Address space of a confined query's process: DuckDB's memory, the result, and the libraries themselves."""


def open_connection(data: Path) -> duckdb.DuckDBPyConnection:
    """An in-memory database that can read the data folder's three sub-folders. `data` is an absolute path without links.

    Raises duckdb.Error.
    """
    connection = duckdb.connect(
        ":memory:",
        config={
            "memory_limit": MEMORY_LIMIT,
            "threads": THREADS,
            "temp_directory": "",  # nothing is spilled to a disk
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
        },
    )
    # DuckDB compares these folders with the pattern of a query and with the files that it finds: both forms are needed.
    folders = [
        f"{form}/{folder}/"
        for folder in (HISTORY_FOLDER, GENERATIONS_FOLDER, DEAD_LETTERS_FOLDER)
        for form in dict.fromkeys((str(data), file_pattern(data)))
    ]
    try:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute("SET python_enable_replacements = false")  # a table is not a Python variable
        connection.execute("SET enable_progress_bar = false")  # on by default in `python -c` and notebooks
        connection.execute(f"SET allowed_directories = [{', '.join(map(quoted, folders))}]")
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
    except BaseException:
        connection.close()
        raise
    return connection


def limit_process() -> None:
    """Limits this process: MAX_PROCESS_BYTES of memory, no file to write, no core dump."""
    resource.setrlimit(resource.RLIMIT_AS, (MAX_PROCESS_BYTES, MAX_PROCESS_BYTES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def file_pattern(folder: Path, names: str = "") -> str:
    """The glob pattern of the files `names` in this folder; the folder's own name is escaped."""
    literal = "".join(f"[{char}]" if char in "*?[" else char for char in str(folder))
    return f"{literal}/{names}" if names else literal


def quoted(text: str) -> str:
    """The text as an SQL string: a quote is doubled, which is the only escape."""
    return "'" + text.replace("'", "''") + "'"
