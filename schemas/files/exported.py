"""An exported memory: a line of JSON Lines, or a row of Parquet.

`factstream memories export` writes it and `import` reads it. It has what an upstream system stated, which an import publishes again, and what happened to it, which it does not. The word
states are not in it: another model makes its own. Version 1.
"""

from typing import Annotated, Literal, Self

import pyarrow as pa
from pydantic import Field, model_validator

from schemas.common import (
    Cardinality,
    FactText,
    Finite,
    Identifier,
    Key,
    MemoryId,
    Message,
    Metadata,
    Namespace,
    ShortText,
    Timestamp,
)
from schemas.fields import FACT, TIME, required

VERSION = 1
VERSION_KEY = b"factstream.memories"
"""Key of the version in the metadata of a Parquet file; a line of JSON has the field `version`."""

Count = Annotated[int, Field(ge=0)]


class ExportedMemory(Message):
    """One memory as it was when it was exported."""

    version: Literal[1]
    memory_id: MemoryId
    namespace: Namespace
    state: Literal["remembered", "superseded"] = Field(
        description="Whether it speaks, or speaks no longer since another replaced it."
    )
    text: FactText
    category: ShortText | None = None
    source: ShortText | None = None
    fact_id: Identifier | None = Field(default=None, description="Of the statement by which it was learned.")
    key: Key | None = None
    cardinality: Cardinality | None = None
    metadata: Metadata | None = None
    observed_at: Timestamp = Field(description="When it was observed last.")
    valid_until: Timestamp | None = None
    learned_at: Timestamp | None = None
    reinforced: Count = Field(default=0, description="How often it was stated again.")
    reinforced_at: Timestamp | None = Field(default=None, description="When it was stated again last.")
    uses: Count = Field(default=0, description="The number of answers that it took part in.")
    last_used_at: Timestamp | None = None
    loss_delta: Finite | None = Field(default=None, description="When it was learned; nats per token.")
    encoder_id: ShortText | None = Field(default=None, description="The model that measured it.")
    superseded_by: MemoryId | None = Field(default=None, description="The memory that replaced it.")
    rule: ShortText | None = Field(default=None, description="By which rule it was replaced.")
    superseded_at: Timestamp | None = None

    @model_validator(mode="after")
    def _is_superseded_by_one(self) -> Self:
        if (self.state == "superseded") != (self.superseded_by is not None):
            raise ValueError("superseded_by belongs to a memory that is superseded, and to no other")
        return self


EXPORTED = pa.schema(
    [
        pa.field("memory_id", pa.string(), nullable=False),
        pa.field("namespace", pa.string(), nullable=False),
        pa.field("state", pa.string(), nullable=False),
        *required(FACT, "text", "observed_at"),  # metadata is a JSON object in a string
        pa.field("learned_at", TIME),
        pa.field("reinforced", pa.int64(), nullable=False),
        pa.field("reinforced_at", TIME),
        pa.field("uses", pa.int64(), nullable=False),
        pa.field("last_used_at", TIME),
        pa.field("loss_delta", pa.float32()),
        pa.field("encoder_id", pa.string()),
        pa.field("superseded_by", pa.string()),
        pa.field("rule", pa.string()),
        pa.field("superseded_at", TIME),
    ],
    metadata={VERSION_KEY: str(VERSION).encode()},
)
"""The same as columns."""
