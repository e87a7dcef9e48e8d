"""Erasure: the text of a forgotten memory is removed from the data folder, when a person asks for it.

A row keeps the columns that the fold and exactly-once need: its outcome, ids, offsets and times. So the memory and its
digest stay the same. Topics still hold the text until their own retention removes it (docs/security.md).
"""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.history import checkpoint, compaction, layout, storage
from pipeline.history.errors import HistoryError, disk_errors
from pipeline.memory.bank import memory_id

BLANKED = ("text", "category", "source", "priors", "surprisals", "vectors")
"""Columns of the history that lose their value. The last three are computed from the text, and reveal much of it."""

MemoryKey = tuple[str, str]
"""Namespace and memory id."""


def erase(data: Path, partition: int, version: int) -> int:
    """Carries out the rows `erased` of `version`, the partition's last; returns the number of blanked rows.

    May be repeated: after a crash at any point it does the rest. Generations and dead letters come first, since they are
    searched for the text, which only the history has. Rows after the request, of a memory that was learned again, are kept.
    Raises `HistoryError`.
    """
    with storage.locked(layout.partition_folder(data, partition)):
        checkpoint.remove(data, partition)
        compaction.vacuum(data, partition)
        paths = [file.path for file in layout.live_files(data, partition) if file.first <= version]
        requested = _requested(paths[-1])
        blanks: dict[Path, list[bool]] = {}
        texts: set[tuple[str, str]] = set()  # namespace and text
        for path in paths:
            blanks[path], found = _rows_to_blank(path, requested, is_last=path == paths[-1])
            texts |= found
        _erase_generations(data, {memory for _, memory in requested}, texts)
        _erase_dead_letters(data, {text for _, text in texts})
        for path, blank in blanks.items():
            if any(blank):
                _replace(path, _blanked(storage.read_table(path), blank, dict.fromkeys(BLANKED)))
    return sum(map(sum, blanks.values()))


def _requested(path: Path) -> dict[MemoryKey, int]:
    """The memories that a file's rows `erased` request, each with the index of the last such row."""
    table = storage.read_table(path).select(["outcome", "namespace", "memory_id"])
    rows = enumerate(zip(*(column.to_pylist() for column in table.columns), strict=True))
    return {(namespace, memory): n for n, (outcome, namespace, memory) in rows if outcome == "erased"}


def _rows_to_blank(
    path: Path, requested: Mapping[MemoryKey, int], is_last: bool
) -> tuple[list[bool], set[tuple[str, str]]]:
    """Which rows of a file still have a text or vectors of a requested memory, and their texts by namespace.

    A row concerns a memory by its id, or by its text: a fact that reinforced another memory, or was skipped, has no id of
    its own.
    """
    table = storage.read_table(path)
    has_content = pc.or_(pc.is_valid(table["text"]), pc.is_valid(table["vectors"]))
    namespaces = pa.array(sorted({namespace for namespace, _ in requested}), pa.string())
    candidates = pc.and_(has_content, pc.is_in(table["namespace"], namespaces))
    blank = [False] * table.num_rows
    texts: set[tuple[str, str]] = set()
    for n in np.flatnonzero(candidates.to_numpy(zero_copy_only=False)).tolist():
        namespace, text = table["namespace"][n].as_py(), table["text"][n].as_py()
        for memory in (table["memory_id"][n].as_py(), memory_id(namespace, text or "")):
            if (namespace, memory) in requested and (not is_last or n < requested[namespace, memory]):
                blank[n] = True
                if text:
                    texts.add((namespace, text))
    return blank, texts


def _erase_generations(data: Path, memories: set[str], texts: set[tuple[str, str]]) -> None:
    """Blanks answers that used one of the memories, and answers of its namespace that quote its text."""

    def concerned(row: dict[str, Any]) -> bool:
        words = f"{row['prompt']}\n{row['text']}"
        quoted = any(namespace in row["namespaces"] and text in words for namespace, text in texts)
        return quoted or not memories.isdisjoint(row["memory_ids"])

    columns = ["prompt", "text", "namespaces", "memory_ids"]
    _erase_rows(data / layout.GENERATIONS_FOLDER, columns, concerned, {"prompt": "", "text": ""})


def _erase_dead_letters(data: Path, texts: Iterable[str]) -> None:
    """Blanks messages that have one of the texts, plain or escaped as in JSON."""
    forms = {
        form.encode("utf-8", "replace")
        for text in texts
        for form in (text, json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1])
    }

    def concerned(row: dict[str, Any]) -> bool:
        return isinstance(row["value"], bytes) and any(form in row["value"] for form in forms)

    _erase_rows(data / layout.DEAD_LETTERS_FOLDER, ["value"], concerned, {"value": None})


def _erase_rows(
    folder: Path,
    columns: list[str],
    concerned: Callable[[dict[str, Any]], bool],
    values: Mapping[str, str | None],
) -> None:
    """Replaces values in the rows of a table's files for which `concerned`, given these columns, is True."""
    if not folder.is_dir():
        return
    with storage.locked(folder):
        for path in sorted(folder.glob("*.parquet")):
            try:
                blank = [concerned(row) for row in pq.ParquetFile(path).read(columns).to_pylist()]
                if any(blank):
                    _replace(path, _blanked(pq.ParquetFile(path).read(), blank, values))
            except (pa.ArrowException, OSError) as error:
                raise HistoryError(f"{path}: cannot be read: {error}; move it away") from error


def _blanked(table: pa.Table, blank: list[bool], values: Mapping[str, str | None]) -> pa.Table:
    """The table with these values in its rows where `blank` is True. values: by column; None is null."""
    kept_rows = pa.array([None if one else n for n, one in enumerate(blank)], pa.int64())
    for name, value in values.items():
        column = table[name].combine_chunks().take(kept_rows)
        column = column if value is None else column.fill_null(value)
        table = table.set_column(table.schema.get_field_index(name), table.schema.field(name), column)
    return table


def _replace(path: Path, table: pa.Table) -> None:
    """Writes a file again, with metadata that rows of it were blanked; a history with the format that allows that."""
    metadata = (table.schema.metadata or {}) | {storage.ERASED_KEY: b"1"}
    if storage.FORMAT_KEY in metadata:
        metadata[storage.FORMAT_KEY] = storage.FORMATS[-1]
    with disk_errors(path):
        storage.write(path, [table.replace_schema_metadata(metadata)])
