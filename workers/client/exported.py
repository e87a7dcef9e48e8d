"""An exported file, read and checked line by line before anything of it is published.

It knows the format (schemas/files/exported.py), and which memories may be published again. A file is as little trusted as a topic.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.files import lines
from pipeline.memory.bank import memory_id
from schemas.common import MAX_MESSAGE_BYTES, BadMessage, parse_json, validate
from schemas.files.exported import EXPORTED, VERSION, VERSION_KEY, ExportedMemory

MAX_WRONG = 20
"""Wrong lines that are described."""
_ROWS = 1_000  # of Parquet, read at a time


class Line(NamedTuple):
    """A memory, and the number of its line or row, from 1."""

    number: int
    memory: ExportedMemory


@dataclass
class Checked:
    """What a look at the whole file found."""

    sha256: str
    lines: int = 0
    remembered: int = 0
    superseded: int = 0
    """Superseded memories whose successor is in the file, too."""
    orphans: set[bytes] = field(default_factory=set)
    """Superseded memories whose successor is not in the file: published again they would speak again, so they are not."""
    replaces: dict[bytes, list[str]] = field(default_factory=dict)
    """Memories of the file that a memory replaced, by that memory."""
    wrong: list[str] = field(default_factory=list)
    wrong_count: int = 0


def check(path: Path) -> Checked:
    """Checks every line. Raises BadMessage for a file that is not an export, and OSError."""
    with path.open("rb") as file:
        checked = Checked(hashlib.file_digest(file, "sha256").hexdigest())
    seen, successor = set[bytes](), dict[bytes, bytes]()
    for number, body in _bodies(path):
        checked.lines = number
        try:
            memory = memory_of(body)
            own = bytes.fromhex(memory.memory_id)
            if own in seen:
                raise BadMessage("invalid-field", f"memory_id: {memory.memory_id} is there already")
            seen.add(own)
            if memory.superseded_by is not None:
                successor[own] = bytes.fromhex(memory.superseded_by)
        except BadMessage as error:
            checked.wrong_count += 1
            if len(checked.wrong) < MAX_WRONG:
                checked.wrong.append(f"line {number}: {error}")
    checked.orphans = {own for own in successor if _ends_outside(own, successor, seen)}
    for own, by in successor.items():
        if own not in checked.orphans:
            checked.replaces.setdefault(by, []).append(own.hex())
    checked.superseded = len(successor) - len(checked.orphans)
    checked.remembered = len(seen) - len(successor)
    return checked


def read(path: Path) -> Iterator[Line]:
    """The memories of a file that was checked, in its order. Raises BadMessage if it has changed since; OSError."""
    for number, body in _bodies(path):
        yield Line(number, memory_of(body))


def _ends_outside(own: bytes, successor: dict[bytes, bytes], seen: set[bytes]) -> bool:
    """Whether the chain of a memory's successors leaves the file, or goes round in it, before one that speaks."""
    passed = set[bytes]()
    while own in successor:
        if own in passed:
            return True
        passed.add(own)
        own = successor[own]
    return own not in seen


def _bodies(path: Path) -> Iterator[tuple[int, bytes | dict[str, Any]]]:
    if path.suffix == ".parquet":
        yield from _rows(path)
        return
    for number, line in enumerate(lines(path, MAX_MESSAGE_BYTES + 2), 1):
        if line.strip():
            yield number, line


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            metadata = file.schema_arrow.metadata or {}
            if VERSION_KEY not in metadata:
                raise BadMessage("invalid-schema", f"{path}: is not an export of memories")
            if metadata[VERSION_KEY] != str(VERSION).encode():
                raise BadMessage(
                    "invalid-schema", f"{path}: {_newer(metadata[VERSION_KEY].decode('utf-8', 'replace'))}"
                )
            if not file.schema_arrow.equals(EXPORTED):
                raise BadMessage("invalid-schema", f"{path}: has other columns than an export of memories")
            number = 0
            for batch in file.iter_batches(_ROWS):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except (pa.ArrowException, OverflowError, UnicodeDecodeError) as error:
        raise BadMessage("invalid-schema", f"{path}: cannot be read as Parquet: {error}") from error


def memory_of(body: bytes | dict[str, Any]) -> ExportedMemory:
    """The memory of a line of JSON, or of a row of EXPORTED. Raises BadMessage."""
    if isinstance(body, bytes):
        body = parse_json(body)
        if (version := body.get("version")) != VERSION and isinstance(version, int):
            raise BadMessage("invalid-field", _newer(str(version)))
    else:
        body = {"version": VERSION} | {name: value for name, value in body.items() if value is not None}
        if "metadata" in body:
            body["metadata"] = _object(body["metadata"])
    memory = validate(ExportedMemory, body)
    if memory.memory_id != memory_id(memory.namespace, memory.text, memory.key):
        raise BadMessage(
            "invalid-field",
            "memory_id: is not the one of this namespace, text and key, so the line was edited; publish it as a new fact instead",
        )
    return memory


def _object(text: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise BadMessage("invalid-field", f"metadata: not JSON: {error}") from None


def _newer(version: str) -> str:
    return f"is of version {version}, and this factstream reads version {VERSION}; upgrade factstream"
