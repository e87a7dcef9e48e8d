"""Snapshots: the memory as it stood after a batch, so that a start folds what came since and not the whole history.

A snapshot is no truth but what a fold would make, and may be removed at any time; an erasure removes it. It stands beside
the history's files, a Parquet file whose name has the batch's number and the SHA-256 of its bytes, and it says which batch
that was: one that is damaged, or of another history, is refused. Queries begin with it, too (pipeline/query/run.py). Knows what
a bank keeps; knows no decisions.
"""

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config import Settings
from pipeline.history import log as history
from pipeline.memory.bank import Bank
from pipeline.memory.codec import memories_from_batch, memories_to_batch
from pipeline.memory.events import Decision
from schemas.history import CHECKPOINT

_NAME = re.compile(r"snapshot-([0-9]{10})-([0-9a-f]{64})\.parquet")
_UNFINISHED = ".snapshot.tmp"
_STATE_KEY = b"factstream.state"
_CHUNK = 4_096  # memories of a record batch


class Snapshot(NamedTuple):
    bank: Bank
    sequence: int  # of the last batch that is in it
    last: list[Decision]  # that batch


def mark(batch: Sequence[Decision]) -> str:
    """By which a batch is known again; an erasure does not change it."""
    told = [
        [d.namespace, d.outcome, d.memory_id, d.cause.log, d.cause.offset, d.decided_at.isoformat()]
        for d in batch
    ]
    return hashlib.sha256(orjson.dumps(told)).hexdigest()


def write(folder: Path, partition: int, sequence: int, last: Sequence[Decision], bank: Bank) -> bool:
    """Keeps the bank as the batch `last`, of that number, left it; False if another writer went on meanwhile.

    Whole or not at all, and instead of the one before. Raises `Unwritable`.
    """
    spaces = {name: bank.known(name) for name in bank.namespaces}
    return write_batches(folder, partition, sequence, {"mark": mark(last), "spaces": spaces}, _batches(bank))


def write_batches(
    folder: Path, partition: int, sequence: int, state: dict[str, object], batches: Iterable[pa.RecordBatch]
) -> bool:
    """The same of memories as record batches of schemas.history.CHECKPOINT."""
    inside = history.folder_of(folder, partition)
    with history.locked(inside, patience_s=0.0):
        if history.last_sequence(folder, partition) != sequence:
            return False
        before, temporary = files(folder, partition), inside / _UNFINISHED
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
        made = temporary.replace(inside / f"snapshot-{sequence:010d}-{sha}.parquet")
        history.sync_folder(inside)
        for path in before:
            if path != made:
                path.unlink(missing_ok=True)
    return True


def read(folder: Path, partition: int, settings: Settings) -> Snapshot | None:
    """The partition's newest snapshot. Raises `HistoryError` for one that is damaged, of another version or history."""
    for path in reversed(files(folder, partition)):
        try:
            raw = path.read_bytes()
            number, sha = sequence_of(path), path.stem.split("-")[2]
            if hashlib.sha256(raw).hexdigest() != sha:
                raise history.HistoryError(f"{path}: its bytes are not those that were written")
            with pq.ParquetFile(pa.BufferReader(raw)) as stored:
                schema = stored.schema_arrow
                if not schema.equals(CHECKPOINT) or CHECKPOINT.metadata.items() - schema.metadata.items():
                    raise history.HistoryError(f"{path}: is of another version")
                state, bank = orjson.loads(schema.metadata[_STATE_KEY]), Bank(settings)
                for namespace, known in state["spaces"].items():
                    bank.know(namespace, *known)
                for batch in stored.iter_batches(_CHUNK):
                    for memory in memories_from_batch(batch):
                        bank.put(memory)
            last = next((rows for _, rows in history.read(folder, partition, number - 1)), None)
            if last is None or mark(last) != state["mark"]:
                raise history.HistoryError(f"{path}: is of another history")
            return Snapshot(bank, number, last)
        except FileNotFoundError:
            continue  # removed by an erasure, or for a newer one
        except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
            raise history.HistoryError(f"{path}: cannot be read: {error}") from error
    return None


def files(folder: Path, partition: int) -> list[Path]:
    """The partition's snapshots, oldest first: one, but where a writer died over the next."""
    inside = history.folder_of(folder, partition)
    return sorted(path for path in inside.glob("snapshot-*.parquet") if _NAME.fullmatch(path.name))


def sequence_of(path: Path) -> int:
    """The number of the last batch that is in it."""
    return int(path.name.split("-")[1])


class Newest(NamedTuple):
    path: Path
    sequence: int
    position: int  # in the query's order, from which on rows are not in it


def newest(folder: Path, partition: int, parts: Sequence[history.Part]) -> Newest | None:
    """The newest snapshot, its bytes unread, that ends with a batch of these files. Raises `HistoryError`."""
    for path in reversed(files(folder, partition)):
        sequence = sequence_of(path)
        for part in parts:
            if part.first <= sequence <= part.last:
                return Newest(path, sequence, history.position_after(part, sequence))
    return None


def remove(folder: Path, partition: int) -> None:
    """All of the partition, half written ones too. Under `locked`."""
    inside = history.folder_of(folder, partition)
    for path in (*files(folder, partition), inside / _UNFINISHED):
        path.unlink(missing_ok=True)


def _batches(bank: Bank) -> Iterator[pa.RecordBatch]:
    memories = (memory for name in bank.namespaces for memory in bank.memories(name))
    while some := list(islice(memories, _CHUNK)):
        yield memories_to_batch(some)
