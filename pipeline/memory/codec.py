"""Codec of facts, decisions and memories: Arrow rows of each schema, and the changelog's records.

A column has the name of an attribute, so the fields of a schema are the ones that are written and read. Two things differ:
`vectors` is an array [words, bytes] in an object and bytes in a column, and some attributes are nested, as
`fact.encoding.text` is.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from operator import attrgetter
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipeline.ingest.encoding import FactEncoding
from pipeline.memory.events import (
    Decision,
    Event,
    ForgetRequest,
    NewFact,
    NothingStated,
    RestoreRequest,
    SourceOffset,
)
from pipeline.memory.namespace import Superseded
from pipeline.memory.record import Memory
from pipeline.text.words import terms_of
from schemas.changelog import MemoryRecord
from schemas.common import BadMessage, metadata_text
from schemas.encoding import FACT_ENCODINGS, FACT_KINDS
from schemas.fields import WORDS
from schemas.history import CHECKPOINT, HISTORY
from schemas.topics import FACTS

Getters = Mapping[str, Callable[[Any], Any]]
"""How each column is read from an object."""


def _names(dataclass: type) -> list[str]:
    return [field.name for field in fields(dataclass)]


def _getters(columns: Sequence[str], **nested: type) -> Getters:
    """The getter of each column. nested: parts of the object, whose classes tell which attributes they have."""
    paths = {name: f"{part}.{name}" for part, of in nested.items() for name in _names(of)}
    return {name: attrgetter(paths.get(name, name)) for name in columns}


_CAUSE, _ENCODING, _NEW_FACT = _names(SourceOffset), _names(FactEncoding), _names(NewFact)
_WORDS = [field.name for field in WORDS]

_EVENT_COLUMNS = _getters(
    ["topic_id", "partition", "offset", "namespace", "published_at"], cause=SourceOffset
)
_FACT_COLUMNS = _getters(
    [n for n in FACT_ENCODINGS.names if n in (*_ENCODING, *_NEW_FACT) and n not in _EVENT_COLUMNS],
    encoding=FactEncoding,
)
_DECISION_COLUMNS = _getters(HISTORY.names, cause=SourceOffset)
_SUPERSESSION = ["superseded_by", "rule"]
_MEMORY_COLUMNS = _getters([n for n in CHECKPOINT.names if n not in _SUPERSESSION])
_RECORD_FIELDS = _getters([n for n in CHECKPOINT.names if n in MemoryRecord.model_fields and n not in _WORDS])

_LEARNED = [n for n in CHECKPOINT.names if n in HISTORY.names and n not in _SUPERSESSION]
"""Columns that a memory takes from the decision that learned it."""
_NEEDED = [name for name in _LEARNED if not CHECKPOINT.field(name).nullable]
"""Fields that must not be null."""


# --- fact-encodings ---


def facts_to_batch(events: Sequence[Event], encoder_id: str) -> pa.RecordBatch:
    """Events of one namespace, in order, as rows of schemas.encoding.FACT_ENCODINGS.

    encoder_id: for the requests; a fact has its own.
    """
    facts = [event if isinstance(event, NewFact) else None for event in events]
    columns = _columns(events, _EVENT_COLUMNS) | _columns(facts, _FACT_COLUMNS)
    of_cause = Counter(event.cause for event in events)
    columns["kind"] = [_kind(event, of_cause[event.cause]) for event in events]
    about_memory = (ForgetRequest, RestoreRequest)
    columns["forget"] = [event.memory_id if isinstance(event, about_memory) else None for event in events]
    for name in ("key", "observed_at", "fact_id"):
        columns[name] = [
            getattr(event, name) if isinstance(event, NewFact | ForgetRequest) else None for event in events
        ]
    columns["encoder_id"] = [fact.encoding.encoder_id if fact else encoder_id for fact in facts]
    return pa.RecordBatch.from_pydict(columns, FACT_ENCODINGS)


def facts_from_batch(batch: pa.RecordBatch) -> list[Event]:
    """The events of a batch whose columns were checked (workers/write/validate.py)."""
    events: list[Event] = []
    for row in _rows(batch):
        cause, kind = SourceOffset(FACTS, row["topic_id"], row["partition"], row["offset"]), row["kind"]
        if kind in FACT_KINDS:
            encoding = FactEncoding(**{name: row[name] for name in _ENCODING})
            own = {name: row[name] for name in _NEW_FACT if name in row}
            events.append(NewFact(encoding=encoding, cause=cause, **own))
        elif kind == "restore":
            events.append(RestoreRequest(row["namespace"], row["forget"], row["published_at"], cause))
        elif kind == "nothing":
            events.append(NothingStated(row["namespace"], row["published_at"], cause))
        else:
            verb, _, what = kind.partition("_")
            events.append(
                ForgetRequest(
                    row["namespace"],
                    None if what else row["forget"],
                    verb == "erase",
                    row["published_at"],
                    cause,
                    row["key"] if what == "key" else None,
                    row["observed_at"] if what else None,
                    row["fact_id"] if what == "key" else None,
                )
            )
    return events


def _kind(event: Event, of_cause: int) -> str:
    """One of schemas.encoding.KINDS, for one of so many events of a record."""
    if isinstance(event, NewFact):
        return "fact" if of_cause == 1 else "stated"
    if isinstance(event, RestoreRequest | NothingStated):
        return "restore" if isinstance(event, RestoreRequest) else "nothing"
    what = "" if event.memory_id is not None else "_key" if event.key is not None else "_all"
    return ("erase" if event.erase else "forget") + what


# --- history ---


def decisions_to_table(decisions: Sequence[Decision]) -> pa.Table:
    """Decisions as rows of schemas.history.HISTORY."""
    return pa.table(_columns(decisions, _DECISION_COLUMNS), schema=HISTORY)


def decisions_from_table(table: pa.Table, erased: bool) -> list[Decision]:
    """The decisions of a table of HISTORY. `erased`: rows of it may have lost their text.

    Raises ValueError for a null in a column without nulls, and for a learned memory that lacks a field.
    """
    for field in HISTORY:
        if not field.nullable and table.column(field.name).null_count:
            raise ValueError(f"null in {field.name}")
    decisions = []
    for row in (row for batch in table.to_batches() for row in _rows(batch)):
        missing = [name for name in _NEEDED if row[name] is None]
        may_miss = row["outcome"] not in ("learned", "superseded") or (erased and row["text"] is None)
        if missing and not may_miss:
            raise ValueError(f"a memory was learned without {', '.join(missing)}")
        cause = SourceOffset(**{name: row.pop(name) for name in _CAUSE})
        decisions.append(Decision(cause=cause, **row))
    return decisions


def memory_from_decision(decision: Decision) -> Memory:
    """The memory that a decision `learned` or `superseded` adds. Raises ValueError if a field is missing."""
    learned = {name: getattr(decision, name) for name in _LEARNED}
    if missing := [name for name in _NEEDED if learned[name] is None]:
        raise ValueError(f"a memory was learned without {', '.join(missing)}")
    return Memory(learned_at=decision.decided_at, **learned)


# --- checkpoints ---


def memories_to_batch(memories: Sequence[Memory | Superseded]) -> pa.RecordBatch:
    """Memories, superseded ones too, as rows of schemas.history.CHECKPOINT."""
    own = [one.memory if isinstance(one, Superseded) else one for one in memories]
    columns = _columns(own, _MEMORY_COLUMNS)
    columns["superseded_by"] = [one.by if isinstance(one, Superseded) else None for one in memories]
    columns["rule"] = [one.rule if isinstance(one, Superseded) else None for one in memories]
    return pa.RecordBatch.from_pydict(columns, CHECKPOINT)


def memories_from_batch(batch: pa.RecordBatch) -> Iterator[Memory | Superseded]:
    """The memories of a batch of CHECKPOINT. Raises ValueError for vectors that do not fit their words."""
    for row in _rows(batch):
        by, rule = (row.pop(name) for name in _SUPERSESSION)
        memory = Memory(**row)
        yield memory if by is None else Superseded(memory, by, rule)


# --- the changelog ---


def memory_to_record(memory: Memory) -> MemoryRecord:
    """The changelog record of a memory. It is not validated: the memory was."""
    own = {name: get(memory) for name, get in _RECORD_FIELDS.items()}
    own["metadata"] = None if memory.metadata is None else orjson.loads(memory.metadata)
    return MemoryRecord.model_construct(
        **own,
        priors=memory.priors.astype("<f4").tobytes(),
        surprisals=memory.surprisals.astype("<f4").tobytes(),
        vectors=memory.vectors.tobytes(),
    )


def memory_from_record(record: MemoryRecord) -> Memory:
    """The memory of a changelog record. Raises BadMessage where priors, surprisals or vectors do not fit the text."""
    words = len(terms_of(record.text))
    if (
        len(record.priors) != 4 * words
        or len(record.surprisals) != 4 * words
        or (len(record.vectors) % words if words else record.vectors)
    ):
        raise BadMessage(
            "invalid-field", f"priors, surprisals and vectors do not fit the text's {words} words"
        )
    numbers = np.frombuffer(record.priors + record.surprisals, "<f4").astype(np.float32, copy=False)
    if not np.isfinite(numbers).all():
        raise BadMessage("invalid-field", "priors or surprisals are not finite")
    own = {name: get(record) for name, get in _RECORD_FIELDS.items()}
    own["metadata"] = None if record.metadata is None else metadata_text(record.metadata)
    try:
        return Memory(
            **own, priors=numbers[:words], surprisals=numbers[words:], vectors=_vectors(record.vectors, words)
        )
    except ValueError as error:
        raise BadMessage("invalid-field", str(error)) from None


# --- columns ---


def _columns(items: Sequence[object], getters: Getters) -> dict[str, list[Any]]:
    """The values of each column; all are None for an item that is None."""
    columns = {name: [None if item is None else get(item) for item in items] for name, get in getters.items()}
    if "vectors" in columns:
        columns["vectors"] = [None if array is None else array.tobytes() for array in columns["vectors"]]
    return columns


def _rows(batch: pa.RecordBatch) -> Iterator[dict[str, Any]]:
    """The values of each row, by column, those of words as arrays. Raises ValueError for vectors without words."""
    columns = {name: batch.column(name).to_pylist() for name in batch.schema.names if name not in _WORDS}
    for name in ("priors", "surprisals"):
        columns[name] = _arrays(batch.column(name))
    columns["vectors"] = []
    for value, priors in zip(batch.column("vectors").to_pylist(), columns["priors"], strict=True):
        if value is not None and priors is None:
            raise ValueError("a row has vectors, but no words")
        columns["vectors"].append(None if value is None else _vectors(value, len(priors)))
    return (dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True))


def _arrays(column: pa.ListArray) -> list[NDArray[np.float32] | None]:
    """The numbers of each row; None for a row that has no list."""
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
    numbers = column.flatten().to_numpy(zero_copy_only=False)
    arrays = np.split(numbers, np.cumsum(lengths)[:-1])
    return [
        array.copy() if valid else None
        for array, valid in zip(arrays, column.is_valid().to_pylist(), strict=False)
    ]


def _vectors(value: bytes, words: int) -> NDArray[np.uint8]:
    """Bytes as [words, bytes of a packed state]. Raises ValueError where they do not fit."""
    return np.frombuffer(value, np.uint8).reshape(words, len(value) // words if words else 0)
