"""`generation-responses`: answers. The key is the request_id; a client keeps the first of each."""

from typing import Annotated, Literal

from pydantic import Field

from schemas.common import Finite, MemoryId, Message, Metadata, Namespace, RequestId


class UsedMemory(Message):
    """A memory that was retrieved for the prompt; it took part in the answer if its gate is above 0."""

    memory_id: MemoryId
    namespace: Namespace
    text: str
    category: str | None = None
    metadata: Metadata | None = Field(default=None, description="As the fact had it.")
    score: Finite
    gate: Annotated[Finite, Field(ge=0, le=1)]
    doubted_by: MemoryId | None = Field(
        default=None,
        description="A newer memory that answers the same differently; this one takes no part.",
    )


class LikelyToken(Message):
    """A token that might have stood in another's place."""

    text: str
    logprob: Finite


class Token(Message):
    """A piece of the answer; joined together they are its text."""

    text: str
    moved: Annotated[Finite, Field(ge=-1, le=1)] = Field(
        description="Its probability with the memories, minus that of the bare model."
    )
    logprob: Finite | None = Field(
        default=None,
        description="Its log-probability, nats, in the distribution that it was drawn from at temperature 1.",
    )
    likeliest: list[LikelyToken] | None = Field(
        default=None, description="The likeliest tokens in its place, as many as the request's `logprobs`."
    )


class Usage(Message):
    prompt_tokens: Annotated[int, Field(ge=0)]
    completion_tokens: Annotated[int, Field(ge=0)]


class Timings(Message):
    """Milliseconds, by the generator's own clock."""

    queued_ms: Finite = Field(description="From the request's Kafka timestamp to the batch.")
    generate_ms: Finite


class ResponseError(Message):
    reason: str = Field(description="A stable code.")
    message: str


class GenerationResponse(Message):
    """The complete answer, or the error."""

    request_id: RequestId
    text: str = ""
    memories: list[UsedMemory] = Field(default_factory=list)
    finish_reason: Literal["stop", "length", "error"]
    usage: Usage | None = None
    timings: Timings | None = None
    tokens: list[Token] | None = Field(default=None, description="If the request asked for them.")
    embeddings: list[list[Finite]] | None = Field(
        default=None,
        description="Of `embed`: each prompt's pooled state, of unit length; zeros for a text without words.",
    )
    error: ResponseError | None = None


class ResponseDelta(Message):
    """A piece of the text of a streamed answer; `index` counts from 0."""

    request_id: RequestId
    index: Annotated[int, Field(ge=0)]
    delta: str
    tokens: list[Token] | None = Field(
        default=None, description="Those of the piece, if the request asked for log-probabilities."
    )
