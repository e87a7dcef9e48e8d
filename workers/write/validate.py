"""Validation of fact-encodings: a message becomes facts and requests to forget, or raises BadMessage.

The topic is not trusted: an event that passes can be decided, stored and published. Each column is checked as a whole, by
the types of the fields in the messages.
"""

from collections.abc import Iterable
from dataclasses import fields
from typing import Annotated, Any, Literal, get_type_hints

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, create_model

from pipeline.memory.codec import facts_from_batch
from pipeline.memory.events import Event, Labels
from pipeline.text.words import terms_of
from schemas.common import (
    BadMessage,
    Finite,
    Identifier,
    Key,
    MemoryId,
    Message,
    MetadataText,
    Namespace,
    Offset,
    validate,
)
from schemas.encoding import FACT_KINDS, KINDS, MAX_VECTOR_BYTES, decode_batch
from schemas.fact import Fact
from schemas.fields import MEASURED
from workers.kafka.partitioner import partition_for

Id = Annotated[str, Field(pattern=r"^[0-9A-Za-z_-]{1,64}$")]


class AllRows(Message):
    kind: list[Literal[KINDS]]  # type: ignore[valid-type]
    topic_id: list[Id]
    partition: list[Annotated[int, Field(ge=0)]]
    offset: list[Offset]
    namespace: list[Namespace]
    encoder_id: list[Id]


_TYPES = get_type_hints(Fact, include_extras=True) | {"metadata": MetadataText | None}
_FACT_COLUMNS = {name: _TYPES[name] for name in ("text", "min_loss_delta", *(f.name for f in fields(Labels)))}
_FACT_COLUMNS |= {field.name: Finite for field in MEASURED}
_FACT_LISTS: dict[str, Any] = {name: list[kind] for name, kind in _FACT_COLUMNS.items()}  # type: ignore[valid-type]

FactRows = create_model("FactRows", __base__=Message, **_FACT_LISTS)
"""The columns of facts: the types of the message on `facts`, and finite measurements."""


class MemoryRows(Message):
    """The columns of requests about one memory."""

    forget: list[MemoryId]


class KeyRows(Message):
    """The columns of requests about a key."""

    key: list[Key]
    fact_id: list[Identifier | None]


ABOUT_MEMORIES, ABOUT_KEYS = ("forget", "erase", "restore"), ("forget_key", "erase_key")


def decode_events(value: bytes | None) -> list[Event]:
    """The events of a message on fact-encodings, in order. Raises BadMessage if any row is invalid."""
    return events_of(decode_batch(value))


def events_of(batch: pa.RecordBatch) -> list[Event]:
    """The events of rows of FACT_ENCODINGS that have no null where none may be, in order. Raises BadMessage."""

    def rows(*kinds: str) -> pa.RecordBatch:
        return batch.filter(pc.is_in(batch.column("kind"), pa.array(kinds)))

    facts = rows(*FACT_KINDS)
    for model, some in (
        (AllRows, batch), (FactRows, facts), (MemoryRows, rows(*ABOUT_MEMORIES)), (KeyRows, rows(*ABOUT_KEYS)),
    ):  # fmt: skip
        columns = {name: some.column(name).to_pylist() for name in model.model_fields}
        valid = validate(model, columns)
        for name in ("namespace", "key"):
            if name in columns and getattr(valid, name) != columns[name]:
                raise BadMessage("invalid-field", f"{name}: not in Unicode's normal form C")
    if facts.column("observed_at").null_count:
        raise BadMessage("invalid-field", "observed_at: missing")
    _check_words(facts)
    try:
        return facts_from_batch(batch)
    except (
        ValueError,
        OverflowError,
    ) as error:  # a field that a request to forget must not have, or a time out of range
        raise BadMessage("invalid-field", f"a row cannot be read: {error}") from None


def _check_words(facts: pa.RecordBatch) -> None:
    """Raises BadMessage unless each word of a text has a finite prior, a finite surprisal and a vector of the same size."""
    words = [len(terms_of(text)) for text in facts.column("text").to_pylist()]
    for name in ("priors", "surprisals"):
        if pc.list_value_length(facts.column(name)).to_pylist() != words:
            raise BadMessage("invalid-field", f"{name}: not one value for each word of the text")
        if not np.isfinite(facts.column(name).flatten().to_numpy(zero_copy_only=False)).all():
            raise BadMessage("invalid-field", f"{name}: missing or not finite")
    for count, size in zip(words, pc.binary_length(facts.column("vectors")).to_pylist(), strict=True):
        if size is None or size > MAX_VECTOR_BYTES or (size % count if count else size):
            raise BadMessage("invalid-field", f"vectors: {size} bytes for a text of {count} words")


def check_owner(record: Any, namespaces: Iterable[str], partitions: int) -> None:
    """Raises BadMessage for a record on another partition than its namespaces', or with another namespace as its key.

    A namespace has one partition, hence one bank. ACLs and users rely on the key.
    """
    for namespace in namespaces:
        if (owner := partition_for(namespace, partitions)) != record.partition:
            raise BadMessage("wrong-partition", f"the namespace {namespace!r} belongs to partition {owner}")
        if record.key is not None and record.key != namespace.encode():
            raise BadMessage("key-mismatch", f"the key is not the body's namespace {namespace!r}")
