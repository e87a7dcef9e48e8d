"""Results of the tools: the schemas that an assistant sees, made from memories and answers."""

from datetime import date, datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from workers.memories.reading import Remembered
from workers.memories.service import Found, Outcome


class Memory(BaseModel):
    """One memory."""

    id: Annotated[str, Field(description="Its id, for update_memory and delete_memory.")]
    memory: Annotated[str, Field(description="What is remembered, in words.")]
    category: str | None
    metadata: dict[str, Any] | None
    created_at: datetime
    updated_at: datetime
    expires: Annotated[
        date | None, Field(description="The last day on which it is used; null: it has no end.")
    ]


class FoundMemory(Memory):
    """A memory that a search found."""

    score: Annotated[
        float, Field(description="Evidence that it is about the query, in nats; larger is better.")
    ]


class UsedMemory(Memory):
    """A memory that was considered for an answer."""

    gate: Annotated[
        float,
        Field(description="From 0, it took no part in the answer, to 1, it took part with all its weight."),
    ]


class Memories(BaseModel):
    """A page of memories, newest first."""

    memories: list[Memory]
    total: Annotated[int, Field(description="Memories on all pages.")]
    page: int
    pages: int


class FoundMemories(BaseModel):
    """The memories that a search found, best first."""

    memories: list[FoundMemory]


class Added(BaseModel):
    """What became of one statement."""

    event: Annotated[
        Literal["ADD", "UPDATE", "DELETE", "NONE"],
        Field(
            description="ADD: remembered. UPDATE: it replaces an older memory. NONE: known already, or of no use."
        ),
    ]
    outcome: Annotated[
        str, Field(description="The writer's own word for it, such as learned, superseded or reinforced.")
    ]
    id: str | None
    memory: str | None
    replaced: Annotated[str | None, Field(description="The text that an UPDATE replaced.")] = None


class AddedMemories(BaseModel):
    """What became of what was said; nothing, if it states nothing."""

    status: Annotated[
        Literal["PENDING", "SUCCEEDED", "FAILED"], Field(description="PENDING: sent, and not decided yet.")
    ]
    results: list[Added]
    error: str | None = None


class Done(BaseModel):
    """A change that was made."""

    message: str


class Answer(BaseModel):
    """An answer of the frozen model with its memory."""

    answer: str
    memories: Annotated[list[UsedMemory], Field(description="The memories that took part in it.")]


class Moved(BaseModel):
    """A piece of the answer."""

    text: str
    moved: Annotated[
        float,
        Field(
            description="By how much the memories raised its probability, -1 to 1; 0: the model said it by itself."
        ),
    ]


class Explanation(BaseModel):
    """The memories that moved an answer, how far, and what the model says without them."""

    answer: str
    without_memory: str
    memories: Annotated[
        list[UsedMemory], Field(description="All that were considered; a gate of 0 had no part.")
    ]
    pieces: list[Moved]


def memory(one: Remembered) -> Memory:
    return Memory(**_fields(one))


def found(one: Found) -> FoundMemory:
    return FoundMemory(**_fields(one.memory), score=round(one.score, 3))


def used(one: Found) -> UsedMemory:
    return UsedMemory(**_fields(one.memory), gate=round(one.gate, 4))


def added(outcome: Outcome) -> AddedMemories:
    results = [
        Added(event=one.event, outcome=one.outcome, id=one.id, memory=one.memory, replaced=one.before)
        for one in outcome.effects
    ]
    return AddedMemories(status=outcome.status, results=results, error=outcome.error)


def _fields(one: Remembered) -> dict[str, Any]:
    return {
        "id": one.id, "memory": one.memory, "category": one.category, "metadata": one.metadata,
        "created_at": one.created_at, "updated_at": one.updated_at, "expires": one.expiration_date,
    }  # fmt: skip
