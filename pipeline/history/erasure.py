"""Erasure: the text of a forgotten memory taken out of the data folder, for a person who asks for deletion.

Knows which rows hold the text; how files are replaced is the history's business. What is left of a row is what the fold
and exactly-once need: its outcome, its ids, its place, its numbers. So the memory and its digest stay the same.
Knows no Kafka: what the topics still hold is theirs to let go (docs/security.md says what that is).
"""

import json
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.history import checkpoint as snapshot
from pipeline.history import compaction
from pipeline.history import log as history
from pipeline.memory.bank import memory_id

BLANKED = ("text", "category", "source", "priors", "surprisals", "vectors")
"""What leaves a row of the history. The states and surprisals are made of the text, and tell much of it."""


def erase(folder: Path, partition: int, sequence: int) -> int:
    """Erases what the rows `erased` of file `sequence`, the partition's last, say; the number of rows that were blanked.

    May be repeated: after a crash at any point it does the rest. The text is found in the history, so what is searched
    by it, the generations and the dead letters, comes first. A row that follows the request, a memory learned again, is
    kept. Raises `HistoryError`.
    """
    with history.locked(history.folder_of(folder, partition)):
        snapshot.remove(folder, partition)
        compaction.sweep(folder, partition)
        parts = [part for part in history.parts(folder, partition) if part.first <= sequence]
        last = parts[-1].path
        until = _requests(last)
        found: dict[Path, list[bool]] = {}
        texts: set[tuple[str, str]] = set()
        for _, _, path in parts:
            found[path] = _hits(path, until, texts, path == last)
        _erase_generations(folder, {memory for _, memory in until}, texts)
        _erase_letters(folder, {text for _, text in texts})
        for path, hits in found.items():
            if any(hits):
                history.replace(path, _blank(history.read_table(path), hits, dict.fromkeys(BLANKED)))
    return sum(map(sum, found.values()))


def _requests(last: Path) -> dict[tuple[str, str], int]:
    """(namespace, memory_id) of what is to be erased, and the row of the last request for it."""
    table = history.read_table(last).select(["outcome", "namespace", "memory_id"])
    rows = enumerate(zip(*(column.to_pylist() for column in table.columns), strict=True))
    return {(namespace, memory): n for n, (outcome, namespace, memory) in rows if outcome == "erased"}


def _hits(
    path: Path, until: dict[tuple[str, str], int], texts: set[tuple[str, str]], is_last: bool
) -> list[bool]:
    """Which rows of a file still say something of what is to be erased. Adds what they say to `texts`."""
    table = history.read_table(path)
    spoken = pc.or_(pc.is_valid(table["text"]), pc.is_valid(table["vectors"]))
    wanted = pc.is_in(
        table["namespace"], pa.array(sorted({namespace for namespace, _ in until}), pa.string())
    )
    hits = [False] * table.num_rows
    for n in np.flatnonzero(pc.and_(spoken, wanted).to_numpy(zero_copy_only=False)).tolist():
        namespace, text = table["namespace"][n].as_py(), table["text"][n].as_py()
        for memory in (table["memory_id"][n].as_py(), memory_id(namespace, text or "")):
            if (namespace, memory) in until and (not is_last or n < until[namespace, memory]):
                hits[n] = True
                if text:
                    texts.add((namespace, text))
    return hits


def _erase_generations(folder: Path, memories: set[str], texts: set[tuple[str, str]]) -> None:
    """Answers that were given from the memory, and those of its namespace that say it."""

    def said(row: dict[str, object]) -> bool:
        words = f"{row['prompt']}\n{row['text']}"
        spaces, used = row["namespaces"], row["memory_ids"]
        assert isinstance(spaces, list) and isinstance(used, list)
        return not memories.isdisjoint(used) or any(
            space in spaces and text in words for space, text in texts
        )

    columns = ["prompt", "text", "namespaces", "memory_ids"]
    _erase_rows(folder / history.GENERATIONS_FOLDER, columns, said, {"prompt": "", "text": ""})


def _erase_letters(folder: Path, texts: Iterable[str]) -> None:
    """Messages that could not be taken and say the same, as text or as JSON."""
    forms = {
        form.encode("utf-8", "replace")
        for text in texts
        for form in (text, json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1])
    }

    def said(row: dict[str, object]) -> bool:
        value = row["value"]
        return isinstance(value, bytes) and any(form in value for form in forms)

    _erase_rows(folder / history.DEAD_LETTERS_FOLDER, ["value"], said, {"value": None})


def _erase_rows(
    folder: Path, columns: list[str], said: Callable[[dict[str, object]], bool], blank: dict[str, str | None]
) -> None:
    if not folder.is_dir():
        return
    with history.locked(folder):
        for path in sorted(folder.glob("*.parquet")):
            try:
                hits = [said(row) for row in pq.ParquetFile(path).read(columns).to_pylist()]
                if any(hits):
                    history.replace(path, _blank(pq.ParquetFile(path).read(), hits, blank))
            except (pa.ArrowException, OSError) as error:
                raise history.HistoryError(f"{path}: cannot be read: {error}; move it away") from error


def _blank(table: pa.Table, hits: list[bool], blank: dict[str, str | None]) -> pa.Table:
    """The table with these columns' values replaced in the rows that are hit."""
    for name, value in blank.items():
        column = table[name].combine_chunks()
        field = table.schema.field(name)
        index = pa.array([None if hit else n for n, hit in enumerate(hits)], pa.int64())
        kept = column.take(index)
        kept = kept if value is None else kept.fill_null(value)
        table = table.set_column(table.schema.get_field_index(name), field, kept)
    return table
