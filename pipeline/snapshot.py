"""Snapshots: the memory as it stood after a batch, so that a start folds what came since and not the whole history.

A snapshot is no truth but what a fold would make, and may be removed at any time; an erasure removes it. It stands beside
the history's files, an Arrow IPC file whose name has the batch's number and the SHA-256 of its bytes, and it says which batch
that was: one that is damaged, or of another history, is refused. Knows what a bank keeps; knows no decisions.
"""

import hashlib
import io
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import fields
from itertools import islice
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import orjson
import pyarrow as pa

from pipeline import history
from pipeline.bank import Bank
from pipeline.decision import Decision, Memory
from pipeline.settings import Settings
from schemas.history import SNAPSHOT

_PLAIN = [f.name for f in fields(Memory) if f.name not in ("priors", "surprisals", "vectors")]
_NAME = re.compile(r"snapshot-([0-9]{10})-([0-9a-f]{64})\.arrow")
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
    inside = history.folder_of(folder, partition)
    with history.locked(inside, patience_s=0.0):
        if history.last_sequence(folder, partition) != sequence:
            return False
        before = _found(inside)
        state = {"mark": mark(last), "spaces": {name: bank.known(name) for name in bank.namespaces}}
        schema = SNAPSHOT.with_metadata(SNAPSHOT.metadata | {_STATE_KEY: orjson.dumps(state)})
        temporary = inside / _UNFINISHED
        try:
            with temporary.open("wb") as file:
                hashed = _Hashed(file)
                with pa.ipc.new_stream(hashed, schema) as out:
                    for batch in _batches(bank):
                        out.write_batch(batch)
                file.flush()
                os.fsync(file.fileno())
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        made = temporary.replace(inside / f"snapshot-{sequence:010d}-{hashed.sha.hexdigest()}.arrow")
        history.sync_folder(inside)
        for path in before:
            if path != made:
                path.unlink(missing_ok=True)
    return True


def read(folder: Path, partition: int, settings: Settings) -> Snapshot | None:
    """The partition's newest snapshot. Raises `HistoryError` for one that is damaged, of another version or history."""
    for path in reversed(_found(history.folder_of(folder, partition))):
        try:
            raw = path.read_bytes()
            _, number, sha = path.stem.split("-")
            if hashlib.sha256(raw).hexdigest() != sha:
                raise history.HistoryError(f"{path}: its bytes are not those that were written")
            with pa.ipc.open_stream(raw) as stream:
                if (
                    not stream.schema.equals(SNAPSHOT)
                    or SNAPSHOT.metadata.items() - stream.schema.metadata.items()
                ):
                    raise history.HistoryError(f"{path}: is of another version")
                state = orjson.loads(stream.schema.metadata[_STATE_KEY])
                bank = Bank(settings)
                for namespace, known in state["spaces"].items():
                    bank.know(namespace, *known)
                for batch in stream:
                    for memory in _memories(batch):
                        bank.put(memory)
            last = next((rows for _, rows in history.read(folder, partition, int(number) - 1)), None)
            if last is None or mark(last) != state["mark"]:
                raise history.HistoryError(f"{path}: is of another history")
            return Snapshot(bank, int(number), last)
        except FileNotFoundError:
            continue  # removed by an erasure, or for a newer one
        except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
            raise history.HistoryError(f"{path}: cannot be read: {error}") from error
    return None


def remove(folder: Path, partition: int) -> None:
    """All of the partition, half written ones too. Under `locked`."""
    inside = history.folder_of(folder, partition)
    for path in (*_found(inside), inside / _UNFINISHED):
        path.unlink(missing_ok=True)


class _Hashed(io.RawIOBase):
    """A file that is written, and the hash of what was."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self.sha = file, hashlib.sha256()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.sha.update(data)
        return self._file.write(data)


def _found(inside: Path) -> list[Path]:
    """Oldest first."""
    return sorted(path for path in inside.glob("snapshot-*.arrow") if _NAME.fullmatch(path.name))


def _batches(bank: Bank) -> Iterator[pa.RecordBatch]:
    memories = (memory for name in bank.namespaces for memory in bank.memories(name))
    while some := list(islice(memories, _CHUNK)):
        columns = {name: [getattr(memory, name) for memory in some] for name in _PLAIN}
        columns |= {name: [getattr(memory, name) for memory in some] for name in ("priors", "surprisals")}
        columns["vectors"] = [memory.vectors.tobytes() for memory in some]
        yield pa.RecordBatch.from_pydict(columns, SNAPSHOT)


def _memories(batch: pa.RecordBatch) -> Iterator[Memory]:
    columns = {name: batch.column(name).to_pylist() for name in (*_PLAIN, "vectors")}
    for i in range(batch.num_rows):
        priors, surprisals = (
            np.array(batch.column(name)[i].values, np.float32) for name in ("priors", "surprisals")
        )
        blob, words = columns["vectors"][i], len(priors)
        vectors = np.frombuffer(blob, np.uint8).reshape(words, len(blob) // words if words else 0)
        yield Memory(
            **{name: columns[name][i] for name in _PLAIN},
            priors=priors,
            surprisals=surprisals,
            vectors=vectors,
        )
