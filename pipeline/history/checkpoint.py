"""Checkpoints: the memory as it was after a version, so that a start folds only later versions.

A checkpoint is a cache of the fold: it can be deleted at any time, and is then rebuilt from the history. An erasure deletes
it. It is a Parquet file, `snapshot-VERSION-SHA256.parquet`, beside the history's files. Its name has the SHA-256 of its bytes,
and its metadata the fingerprint of the version's decisions, so that a damaged one, and one of another history, are refused.
Queries start from it, too (pipeline/query/views.py).
"""

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config import Settings
from pipeline.files import sync_folder
from pipeline.history import layout, log, storage
from pipeline.history.errors import HistoryError
from pipeline.history.layout import DataFile
from pipeline.memory.bank import Bank
from pipeline.memory.codec import memories_from_batch, memories_to_batch
from pipeline.memory.events import Decision
from pipeline.memory.namespace import Superseded
from pipeline.memory.record import Memory
from schemas.history import CHECKPOINT

_NAME = re.compile(r"snapshot-([0-9]{10})-([0-9a-f]{64})\.parquet")
_UNFINISHED = ".snapshot.tmp"
_STATE_KEY = b"factstream.state"
_CHUNK = 4_096  # memories of a record batch


class Checkpoint(NamedTuple):
    """A checkpoint that was read."""

    bank: Bank
    version: int  # the last one in it
    last: list[Decision]  # that version's decisions


class CheckpointFile(NamedTuple):
    """A checkpoint for queries, which was not read."""

    path: Path
    version: int
    position: int  # the first history_position of decisions that are not in it


def write(data: Path, partition: int, version: int, last: Sequence[Decision], bank: Bank) -> bool:
    """Writes the bank as it is after `version`, whose decisions are `last`; False if there is a later version already.

    Durable and atomic; replaces the checkpoint before it. Raises `Unwritable`.
    """
    spaces = {name: bank.decided_state(name) for name in bank.namespaces}
    state: dict[str, object] = {"mark": fingerprint(last), "spaces": spaces}
    return write_batches(data, partition, version, state, _batches(bank))


def write_batches(
    data: Path, partition: int, version: int, state: dict[str, object], batches: Iterable[pa.RecordBatch]
) -> bool:
    """The same as `write`, for memories as record batches of schemas.history.CHECKPOINT."""
    folder = layout.partition_folder(data, partition)
    with storage.locked(folder, wait_s=0.0):
        if layout.last_version(data, partition) != version:
            return False
        older, temporary = paths(data, partition), folder / _UNFINISHED
        schema = CHECKPOINT.with_metadata(CHECKPOINT.metadata | {_STATE_KEY: orjson.dumps(state)})
        try:
            with pq.ParquetWriter(temporary, schema, compression="zstd", write_page_checksum=True) as out:
                for batch in batches:
                    out.write_batch(batch)
            with temporary.open("rb") as file:
                sha = hashlib.file_digest(file, "sha256").hexdigest()
                os.fsync(file.fileno())
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        newest = temporary.replace(folder / f"snapshot-{version:010d}-{sha}.parquet")
        sync_folder(folder)
        for path in older:
            if path != newest:
                path.unlink(missing_ok=True)
    return True


def read(data: Path, partition: int, settings: Settings) -> Checkpoint | None:
    """The partition's newest checkpoint, if it has one.

    Raises `HistoryError` for one that is damaged, or of another format or history.
    """
    for path in reversed(paths(data, partition)):
        try:
            return _read(path, data, partition, settings)
        except FileNotFoundError:
            continue  # an erasure removed it, or a newer one replaced it
        except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
            raise HistoryError(f"{path}: cannot be read: {error}") from error
    return None


def newest(data: Path, partition: int, files: Sequence[DataFile]) -> CheckpointFile | None:
    """The newest checkpoint, unread, of this format and of a version that these files have. Raises `HistoryError`."""
    for path in reversed(paths(data, partition)):
        version = version_of(path)
        for file in files:
            if file.first <= version <= file.last and _is_current(storage.read_schema(path)):
                return CheckpointFile(path, version, _position_after(file, version))
    return None


def paths(data: Path, partition: int) -> list[Path]:
    """The partition's checkpoints, oldest first: one, or more if a writer died before it removed the older ones."""
    folder = layout.partition_folder(data, partition)
    return sorted(path for path in folder.glob("snapshot-*.parquet") if _NAME.fullmatch(path.name))


def version_of(path: Path) -> int:
    """The last version in a checkpoint, by its name."""
    return int(path.name.split("-")[1])


def remove(data: Path, partition: int) -> None:
    """Removes the partition's checkpoints, unfinished ones too. The caller holds the lock."""
    unfinished = layout.partition_folder(data, partition) / _UNFINISHED
    for path in (*paths(data, partition), unfinished):
        path.unlink(missing_ok=True)


def fingerprint(decisions: Sequence[Decision]) -> str:
    """SHA-256 by which a version's decisions are recognised; an erasure does not change it."""
    rows = [
        [d.namespace, d.outcome, d.memory_id, d.cause.log, d.cause.offset, d.decided_at.isoformat()]
        for d in decisions
    ]
    return hashlib.sha256(orjson.dumps(rows)).hexdigest()


def _read(path: Path, data: Path, partition: int, settings: Settings) -> Checkpoint:
    content = path.read_bytes()
    version, sha = version_of(path), path.stem.split("-")[2]
    if hashlib.sha256(content).hexdigest() != sha:
        raise HistoryError(f"{path}: its bytes are not those that were written")
    with pq.ParquetFile(pa.BufferReader(content)) as file:
        schema = file.schema_arrow
        if not _is_current(schema):
            raise HistoryError(f"{path}: has another format version")
        state, bank = orjson.loads(schema.metadata[_STATE_KEY]), Bank(settings)
        for namespace, known in state["spaces"].items():
            bank.restore(namespace, *known)
        for batch in file.iter_batches(_CHUNK):
            for memory in memories_from_batch(batch):
                bank.put(memory)
    last = next((decisions for _, decisions in log.read(data, partition, version - 1)), None)
    if last is None or fingerprint(last) != state["mark"]:
        raise HistoryError(f"{path}: is of another history")
    return Checkpoint(bank, version, last)


def _is_current(schema: pa.Schema) -> bool:
    """Whether a checkpoint has the format of this factstream; one of another format is folded again."""
    return schema.equals(CHECKPOINT) and not CHECKPOINT.metadata.items() - (schema.metadata or {}).items()


def _position_after(file: DataFile, version: int) -> int:
    """The history_position (pipeline/query/views.py) of the first row after `version`, which the file has."""
    if not file.is_merged:
        return (version + 1) * log.MAX_ROWS
    footer = storage.read_metadata(file.path)
    counts = storage.row_counts(file, footer.metadata or {}, footer.num_rows)
    return file.first * log.MAX_ROWS + sum(counts[: version - file.first + 1])


def _batches(bank: Bank) -> Iterator[pa.RecordBatch]:
    memories: Iterator[Memory | Superseded] = chain.from_iterable(
        chain(bank.memories(name), bank.superseded(name)) for name in bank.namespaces
    )
    while chunk := list(islice(memories, _CHUNK)):
        yield memories_to_batch(chunk)
