"""The bodies of OpenAI's requests: what is read, what is refused, and what they become.

Parameters that change nothing here are left out. Those that would change the answer and cannot be followed are refused, so that
nobody believes that they were.
"""

import secrets
from abc import abstractmethod
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, ConfigDict, Field, model_validator

from schemas.common import Finite, Message, validate
from schemas.request import MAX_LOGPROBS, MAX_PROMPT_CHARS, GenerationRequest
from workers.http.parts import Content, Listed, text_of

MODEL, BARE = "factstream", "factstream-bare"
"""The model with its memory, and the frozen model alone, to compare with."""
MAX_TOKENS = 2048
"""Most tokens of one answer; a client that asks for more gets this many."""
CHAT_TOKENS, COMPLETION_TOKENS = 256, 16
"""Tokens of an answer without a limit of its own; OpenAI's completions have 16, too."""
MAX_INPUTS = 2048

Text = Annotated[str, Field(min_length=1, max_length=MAX_PROMPT_CHARS)]


def _is_text_only(names: list[str]) -> list[str]:
    if names != ["text"]:
        raise ValueError("answers are text only")
    return names


class Body(Message):
    """A body, in which unknown fields are left out."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)


class ChatTurn(Body):
    role: Literal["system", "developer", "user", "assistant"]
    content: Content | None = None
    name: str | None = None

    @property
    def text(self) -> str:
        return text_of(self.content or [])


class StreamOptions(Body):
    include_usage: bool = False


class ResponseFormat(Body):
    type: Literal["text"]


class Metadata(Body):
    namespace: str | None = None


class Sampled(Body):
    """What chats and completions have in common."""

    model: str
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[Finite, Field(ge=0, le=2)] | None = None
    top_p: Annotated[Finite, Field(ge=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**64)] | None = None
    stop: Annotated[list[str], Listed] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: str | None = None
    metadata: Metadata | None = None
    learn: bool | None = None
    n: int | None = None
    presence_penalty: Finite | None = None
    frequency_penalty: Finite | None = None
    logit_bias: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _can_be_followed(self) -> Self:
        if self.n not in (None, 1):
            raise ValueError("n: only one answer is generated")
        if self.presence_penalty or self.frequency_penalty or self.logit_bias:
            raise ValueError("presence_penalty, frequency_penalty and logit_bias are not supported")
        if self.stream_options and not self.stream:
            raise ValueError("stream_options is for a stream")
        return self

    @abstractmethod
    def request(self, namespace: str) -> GenerationRequest:
        """The request on the topic. Raises BadMessage."""

    @abstractmethod
    def user_text(self) -> str:
        """The last text of the user, which can be learned; empty without it."""

    @property
    def streams(self) -> bool:
        return bool(self.stream)

    def options(self, namespace: str, length: int, logprobs: int | None) -> dict[str, Any]:
        """The fields of the request on the topic, but for the prompt."""
        greedy = not self.temperature or self.top_p == 0
        seed = secrets.randbits(63) if self.seed is None else self.seed % 2**63
        return {
            "namespace": namespace, "max_new_tokens": min(length, MAX_TOKENS),
            "temperature": 0.0 if greedy else self.temperature, "top_p": self.top_p or 1.0, "seed": seed,
            "stop": self.stop or [], "stream": self.streams,
            "use_memory": self.model == MODEL, "logprobs": logprobs,
        }  # fmt: skip


class ChatBody(Sampled):
    messages: Annotated[list[ChatTurn], Field(min_length=1, max_length=256)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    response_format: ResponseFormat | None = None
    modalities: Annotated[list[str], AfterValidator(_is_text_only)] | None = None
    tools: list[Any] | None = None
    functions: list[Any] | None = None
    audio: None = None
    prediction: None = None
    web_search_options: None = None

    @model_validator(mode="after")
    def _is_a_plain_chat(self) -> Self:
        if self.tools or self.functions:
            raise ValueError("tools: the model calls no tools")
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs")
        return self

    def request(self, namespace: str) -> GenerationRequest:
        length = self.max_completion_tokens or self.max_tokens or CHAT_TOKENS
        roles = {"developer": "system"}
        messages = [{"role": roles.get(turn.role, turn.role), "content": turn.text} for turn in self.messages]
        logprobs = (self.top_logprobs or 0) if self.logprobs else None
        return validate(GenerationRequest, {"messages": messages} | self.options(namespace, length, logprobs))

    def user_text(self) -> str:
        return next((turn.text for turn in reversed(self.messages) if turn.role == "user"), "")


class CompletionBody(Sampled):
    prompt: Annotated[list[str], Field(min_length=1, max_length=1), Listed]
    logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    echo: Literal[False] | None = None
    best_of: Literal[1] | None = None
    suffix: None = None

    def request(self, namespace: str) -> GenerationRequest:
        options = self.options(namespace, self.max_tokens or COMPLETION_TOKENS, self.logprobs)
        return validate(GenerationRequest, {"prompt": self.user_text()} | options)

    def user_text(self) -> str:
        return self.prompt[0]


class EmbeddingBody(Body):
    model: str
    input: Annotated[list[Text], Field(min_length=1, max_length=MAX_INPUTS), Listed]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(ge=1)] | None = None
