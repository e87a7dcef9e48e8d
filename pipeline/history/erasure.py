"""Erasure: the texts of forgotten memories leave the data folder, when a person asks for it.

A row keeps the columns that the fold and exactly-once need: its outcome, ids, offsets and times. So the memory and its
digest stay the same. Topics still hold the text until their own retention removes it (docs/security.md).
"""

import json
import unicodedata
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.history import checkpoint, compaction, layout, storage
from pipeline.history.errors import HistoryError, disk_errors
from pipeline.memory.bank import memory_id
from schemas.common import DEFAULT_NAMESPACE, BadMessage, parse_json
from schemas.fact import namespace_of_key

BLANKED = ("text", "category", "source", "metadata", "priors", "surprisals", "vectors")
"""Columns of the history that lose their value. The last three are computed from the text, and reveal much of it.

Ids and keys stay, since the fold needs them: no name of a person should be in them.
"""

Place = tuple[str, str]
"""A namespace, and the id of a memory or a key in it."""


@dataclass
class Requested:
    """What a version's rows `erased` request, each with the index of the last such row."""

    memories: dict[Place, int] = field(default_factory=dict)
    keys: dict[Place, int] = field(default_factory=dict)
    namespaces: dict[str, int] = field(default_factory=dict)
    taken_up: dict[Place, tuple[str, int]] = field(default_factory=dict)
    """Memories without a key whose text a requested memory took up: the file and the index of the last row that did."""

    def until(self, namespace: str, memory_ids: Iterable[str | None], key: str | None) -> int:
        """The index of the last request that concerns a row; -1 for none."""
        found = [self.memories.get((namespace, one), -1) for one in memory_ids if one is not None]
        by_key = self.keys.get((namespace, key), -1) if key is not None else -1
        return max([*found, by_key, self.namespaces.get(namespace, -1)])


def erase(data: Path, partition: int, version: int) -> int:
    """Carries out the rows `erased` of `version`, the partition's last; returns the number of blanked rows.

    May be repeated: after a crash at any point it does the rest. Generations and dead letters come first, since they are
    searched for the text, which only the history has. Rows after the request, of a memory that was learned again, are kept.
    Raises `HistoryError`.
    """
    with storage.locked(layout.partition_folder(data, partition)):
        checkpoint.remove(data, partition)
        compaction.vacuum(data, partition)
        paths, requested = _all_requested(data, partition, version)
        blanks: dict[Path, list[bool]] = {}
        texts: set[tuple[str, str]] = set()  # namespace and text
        for path in paths:
            blanks[path], found = _rows_to_blank(path, requested, is_last=path == paths[-1])
            texts |= found
        _erase_generations(data, requested, texts)
        _erase_dead_letters(data, requested, texts)
        for path, blank in blanks.items():
            if any(blank):
                _replace(path, _blanked(storage.read_table(path), blank, dict.fromkeys(BLANKED)))
    return sum(map(sum, blanks.values()))


def is_carried_out(data: Path, partition: int, version: int) -> bool:
    """Whether no text is left in the history that the rows `erased` of `version`, the partition's last, request.

    A writer appends the request, and then erases. Of a version that another one follows, all is carried out. Raises `HistoryError`.
    """
    paths, requested = _all_requested(data, partition, version)
    return not any(any(_rows_to_blank(path, requested, is_last=path == paths[-1])[0]) for path in paths)


def _all_requested(data: Path, partition: int, version: int) -> tuple[list[Path], Requested]:
    """The files up to `version`, the partition's last, and what its rows `erased` request of them."""
    paths = [file.path for file in layout.live_files(data, partition) if file.first <= version]
    requested = _requested(paths[-1])
    for path in paths:
        _add_memories(path, requested, is_last=path == paths[-1])
    return paths, requested


def _requested(path: Path) -> Requested:
    """What a file's rows `erased` request."""
    requested = Requested()
    for n, row in _rows(path, "outcome", "namespace", "memory_id", "key"):
        if row["outcome"] != "erased":
            continue
        if row["memory_id"] is not None:
            requested.memories[row["namespace"], row["memory_id"]] = n
        elif row["key"] is not None:
            requested.keys[row["namespace"], row["key"]] = n
        else:
            requested.namespaces[row["namespace"]] = n
    return requested


def _add_memories(path: Path, requested: Requested, is_last: bool) -> None:
    """Adds the memories that a requested key stated, and those without a key whose text a requested memory took up."""
    for n, row in _rows(path, "namespace", "memory_id", "nearest", "key", "rule", "outcome"):
        namespace, own = row["namespace"], row["memory_id"]
        if row["outcome"] not in ("learned", "superseded") or row["key"] is None:
            continue
        until = requested.until(namespace, [own], row["key"])
        if until < 0 or (is_last and n > until):
            continue
        requested.memories[namespace, own] = max(until, requested.memories.get((namespace, own), -1))
        if row["rule"] == "key_taken_up":
            requested.taken_up[namespace, row["nearest"]] = path.name, n


def _rows(path: Path, *columns: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a file, with some of their columns, numbered."""
    return enumerate(storage.read_table(path).select(list(columns)).to_pylist())


def _rows_to_blank(
    path: Path, requested: Requested, is_last: bool
) -> tuple[list[bool], set[tuple[str, str]]]:
    """The rows of a file that still have a text or vectors to erase, and their texts by namespace.

    A row concerns a memory by its id, or by its text: a fact that reinforced another memory, or was skipped, has no id of
    its own.
    """
    table = storage.read_table(path)
    has_content = pc.or_(pc.is_valid(table["text"]), pc.is_valid(table["vectors"]))
    places = (*requested.memories, *requested.keys)
    names = pa.array(sorted({*requested.namespaces, *(namespace for namespace, _ in places)}), pa.string())
    candidates = pc.and_(has_content, pc.is_in(table["namespace"], names))
    blank = [False] * table.num_rows
    texts: set[tuple[str, str]] = set()
    for n in np.flatnonzero(candidates.to_numpy(zero_copy_only=False)).tolist():
        namespace, text, key = (table[name][n].as_py() for name in ("namespace", "text", "key"))
        memories = table["memory_id"][n].as_py(), memory_id(namespace, text or "", key)
        until = requested.until(namespace, memories, key)
        # The same text without a key, learned again after it was taken up, is a memory of its own.
        taken_up = [requested.taken_up.get((namespace, one), ("", -1)) for one in memories]
        if (until >= 0 and (not is_last or n < until)) or (path.name, n) <= max(taken_up):
            blank[n] = True
            if text:
                texts.add((namespace, text))
    return blank, texts


def _erase_generations(data: Path, requested: Requested, texts: set[tuple[str, str]]) -> None:
    """Blanks answers that used one of the memories, answers of its namespace that quote its text, and of a namespace all."""
    memories = {memory for _, memory in (*requested.memories, *requested.taken_up)}
    single = [(namespace, text) for namespace, text in texts if namespace not in requested.namespaces]

    def concerned(row: dict[str, Any]) -> bool:
        words = f"{row['prompt']}\n{row['text']}"
        return (
            not requested.namespaces.keys().isdisjoint(row["namespaces"])
            or any(namespace in row["namespaces"] and text in words for namespace, text in single)
            or not memories.isdisjoint(row["memory_ids"])
        )

    columns = ["prompt", "text", "namespaces", "memory_ids"]
    _erase_rows(data / layout.GENERATIONS_FOLDER, columns, concerned, {"prompt": "", "text": ""})


def _erase_dead_letters(data: Path, requested: Requested, texts: set[tuple[str, str]]) -> None:
    """Blanks messages that have one of the texts, plain or escaped as in JSON, and of a namespace all with its key."""
    whole = {text for _, text in texts}
    forms = {  # in what is not JSON; not of a whole namespace, which may have many
        form.encode("utf-8", "replace")
        for namespace, text in texts
        if namespace not in requested.namespaces
        for form in (text, json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1])
    }

    def concerned(row: dict[str, Any]) -> bool:
        value = row["value"]
        if not isinstance(value, bytes):
            return False
        if _namespace(row["key"]) in requested.namespaces or any(form in value for form in forms):
            return True
        return _names(value, requested.namespaces, whole)

    _erase_rows(data / layout.DEAD_LETTERS_FOLDER, ["key", "value"], concerned, {"value": None})


def _namespace(key: bytes | None) -> str | None:
    """The namespace in a record's key; None where it has no valid one."""
    try:
        return namespace_of_key(key) or DEFAULT_NAMESPACE
    except BadMessage:
        return None


def _names(value: bytes, namespaces: Container[str], texts: Container[str]) -> bool:
    """Whether a message in JSON is of one of the namespaces, or has one of the texts."""
    try:
        body = parse_json(value)
    except BadMessage:
        return False
    namespace, text = body.get("namespace"), body.get("text")
    is_named = isinstance(namespace, str) and unicodedata.normalize("NFC", namespace) in namespaces
    return is_named or (isinstance(text, str) and text in texts)


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
