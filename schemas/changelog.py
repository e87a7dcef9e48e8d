"""`memory-changelog`: the memory as a compacted topic, a record a memory, by `namespace/memory_id`.

A tombstone removes the memory of its key. Each namespace also has one position record, key `namespace/`: how far its facts
are decided. By it a publisher can wait for its facts, and a request for a memory that has them (read your writes).
"""

import re
from typing import Annotated, Literal

from pydantic import Field

from schemas.common import (
    MEMORY_ID_PATTERN,
    BadMessage,
    Blob,
    Cardinality,
    FactText,
    Finite,
    Key,
    MemoryId,
    Message,
    Metadata,
    Namespace,
    Offset,
    Positions,
    ShortText,
    Timestamp,
    decode,
    decode_key,
)

MAX_CHANGELOG_BYTES = 8 * 1024 * 1024

Outcome = Literal[
    "learned",
    "reinforced",
    "superseded",
    "skipped",
    "outdated",
    "duplicate",
    "evicted",
    "forgotten",
    "erased",
    "restored",
    "unknown",
    "used",
]
"""The outcome of a decision about a fact or a memory.

learned      stored as a new memory
superseded   stored, and an older memory of the same key, or on the same subject and relation, speaks no longer
reinforced   a memory has the same text, and became more important
skipped      not stored, by the loss gate: the model knows the fact already
outdated     older than a memory of the same key, or on the same subject and relation, or than a request to forget the key
duplicate    its fact_id was decided before
evicted      removed because the namespace is full
forgotten    removed on request
erased       removed on request, and its text taken out of the history
restored     brought back on request, after another had superseded it
unknown      a request to restore what is not superseded, or not remembered any more
used         took part in an answer
"""


class MemoryRecord(Message):
    """One complete memory: everything that a replica needs to retrieve it and to answer with it."""

    memory_id: MemoryId
    namespace: Namespace
    text: FactText
    category: ShortText | None = None
    source: ShortText | None = None
    fact_id: ShortText | None = None
    key: Key | None = None
    cardinality: Cardinality | None = None
    metadata: Metadata | None = None
    observed_at: Timestamp
    valid_until: Timestamp | None = None
    learned_at: Timestamp
    importance: Finite = Field(
        description="log2 of the undecayed importance: its order never changes by waiting."
    )
    uses: Annotated[int, Field(ge=0)] = 0
    reinforced: Annotated[int, Field(ge=0)] = 0
    loss_delta: Finite
    encoder_id: ShortText
    priors: Blob = Field(description="Prior information of each word, nats; little-endian float32.")
    surprisals: Blob = Field(description="Surprisal of each word in the fact, nats; little-endian float32.")
    vectors: Blob = Field(
        description="One whitened state a word, two bits a dimension (pipeline/ingest/quantize.py), row-major."
    )


class Decided(Message):
    """The verdict on one fact, for the client that waits for it."""

    topic_id: ShortText
    partition: Annotated[int, Field(ge=0)]
    offset: Offset
    outcome: Outcome
    memory_id: MemoryId | None = None
    loss_delta: Finite | None = None


class PositionRecord(Message):
    """How far the facts of a namespace are decided, and the verdicts of the last batch."""

    namespace: Namespace
    positions: Positions
    decided: list[Decided] = Field(default_factory=list)


def changelog_key(namespace: str, memory_id: str = "") -> bytes:
    """The key of a memory; without a memory_id, of the namespace's position record."""
    return f"{namespace}/{memory_id}".encode()


def split_key(key: bytes) -> tuple[str, str]:
    """The namespace and the memory_id of a record's key; a namespace may contain slashes itself."""
    namespace, _, memory_id = key.decode("utf-8", "replace").rpartition("/")
    return namespace, memory_id


def decode_changelog(key: bytes | None, value: bytes | None) -> MemoryRecord | PositionRecord | None:
    """A record of the changelog, its key checked against its body; None for a tombstone. Raises BadMessage.

    A tombstone may have any key: it removes what is there, which may be an invalid record.
    """
    if value is None:
        return None
    namespace, slash, memory_id = (decode_key(key, "namespace/memory_id") or "").rpartition("/")
    if not slash:
        raise BadMessage("invalid-key", "the key must be namespace/memory_id, or namespace/")
    if memory_id and not re.fullmatch(MEMORY_ID_PATTERN, memory_id):
        raise BadMessage("invalid-key", f"the key must end with a memory_id ({MEMORY_ID_PATTERN})")
    if memory_id:
        memory = decode(MemoryRecord, value, MAX_CHANGELOG_BYTES)
        if (memory.namespace, memory.memory_id) == (namespace, memory_id):
            return memory
    else:
        position = decode(PositionRecord, value, MAX_CHANGELOG_BYTES)
        if position.namespace == namespace:
            return position
    raise BadMessage("key-mismatch", "the key names another memory or namespace than the body")
