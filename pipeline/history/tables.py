"""Tables of generations and dead letters, for queries: a file for each batch of a worker."""

import re
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.history import storage
from pipeline.history.errors import disk_errors
from pipeline.history.layout import DEAD_LETTERS_FOLDER, GENERATIONS_FOLDER
from schemas.dead_letter import DEAD_LETTERS
from schemas.history import GENERATIONS

_SCHEMAS = {GENERATIONS_FOLDER: GENERATIONS, DEAD_LETTERS_FOLDER: DEAD_LETTERS}
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")


def append_generations(data: Path, rows: list[dict[str, Any]], name: str) -> None:
    """Writes `generations/NAME.parquet`, columns schemas.history.GENERATIONS; a file of that name is replaced.

    Raises ValueError for a name with other characters than letters, digits, dot, dash and underscore; `Unwritable`.
    """
    append(data, GENERATIONS_FOLDER, rows, name)


def append_dead_letters(data: Path, rows: list[dict[str, Any]], name: str) -> None:
    """Writes `dead_letters/NAME.parquet`, columns schemas.dead_letter.DEAD_LETTERS; otherwise as `append_generations`."""
    append(data, DEAD_LETTERS_FOLDER, rows, name)


def append(data: Path, folder: str, rows: list[dict[str, Any]], name: str) -> None:
    """The same as the two above, for the table in a folder."""
    path = data / path_of(folder, name)
    with disk_errors(path):
        storage.write(path, [table_of(folder, rows)])


def path_of(folder: str, name: str) -> Path:
    """The file of these rows, in the data folder. Raises ValueError."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is not a file name: letters, digits, dot, dash and underscore only")
    return Path(folder, f"{name}.parquet")


def table_of(folder: str, rows: list[dict[str, Any]]) -> pa.Table:
    """Rows of the table in a folder. Raises pa.ArrowException."""
    return pa.Table.from_pylist(rows, _SCHEMAS[folder])
