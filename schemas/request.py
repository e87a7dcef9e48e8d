"""`generation-requests`: a prompt to answer. The response repeats the key, the request_id."""

import re
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, JsonValue, model_validator

from schemas.common import (
    DEFAULT_NAMESPACE,
    REQUEST_ID_PATTERN,
    BadMessage,
    Finite,
    Message,
    Namespace,
    Positions,
    Timestamp,
    decode,
    decode_key,
)

MAX_PROMPT_CHARS = 64 * 1024
MAX_PROMPTS = 256
MAX_LOGPROBS = 20

Prompt = Annotated[str, Field(min_length=1, max_length=MAX_PROMPT_CHARS)]


class ChatMessage(Message):
    role: Literal["system", "user", "assistant"]
    content: Annotated[str, Field(max_length=MAX_PROMPT_CHARS)]


def _given(name: str, kind: str, *others: str) -> JsonValue:
    return {"required": [name, *others], "properties": {name: {"type": kind}}}


class GenerationRequest(Message):
    """Exactly one of `prompt` (continued as it is), `messages` (a chat, in the model's template) and `prompts`."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [
                _given("prompt", "string"),
                _given("messages", "array"),
                _given("prompts", "array", "task"),
            ]
        }
    )

    task: Literal["generate", "retrieve", "embed"] = Field(
        default="generate",
        description="`retrieve` returns the memories found for the prompt, and generates nothing; `embed` the pooled "
        "states of the prompts.",
    )
    prompt: Prompt | None = None
    prompts: Annotated[list[Prompt], Field(min_length=1, max_length=MAX_PROMPTS)] | None = Field(
        default=None, description="Texts to embed together."
    )
    limit: Annotated[int, Field(ge=1, le=100)] = Field(
        default=10, description="The most memories that `retrieve` returns."
    )
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=256)] | None = None
    namespace: Namespace | Annotated[list[Namespace], Field(min_length=1, max_length=16)] = Field(
        default=DEFAULT_NAMESPACE,
        description="Namespaces whose memories may answer: one, or a list (a persona and a shared one).",
    )
    max_new_tokens: Annotated[int, Field(ge=1, le=2048)] = 32
    temperature: Annotated[Finite, Field(ge=0, le=10)] = Field(default=0.0, description="0 is greedy.")
    top_p: Annotated[Finite, Field(gt=0, le=1)] = 1.0
    seed: Annotated[int, Field(ge=0, le=2**63 - 1)] = 0
    stop: Annotated[list[Annotated[str, Field(min_length=1, max_length=64)]], Field(max_length=8)] = Field(
        default=[], description="The answer ends before the first of these."
    )
    use_memory: bool = True
    stop_at_answer: bool = Field(
        default=True,
        description="With a memory speaking, the text ends where its answer ends; false goes on to max_new_tokens.",
    )
    stream: bool = Field(
        default=False, description="Send the text in deltas while it is generated, before the whole response."
    )
    tokens: bool = Field(
        default=False, description="Report for each token of the answer how far the memories moved it."
    )
    logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = Field(
        default=None,
        description="Report for each token of the answer its log-probability, and so many of the likeliest tokens.",
    )
    after: Annotated[dict[Namespace, Positions], Field(max_length=16)] | None = Field(
        default=None,
        description="Answer only from a memory that has decided these facts "
        "(positions as `publish` reports them).",
    )
    deadline: Timestamp | None = Field(default=None, description="After this time the response is an error.")

    @model_validator(mode="after")
    def _one_of_prompt_and_messages(self) -> "GenerationRequest":
        if [self.prompt, self.messages, self.prompts].count(None) != 2:
            raise ValueError("give exactly one of prompt, messages and prompts")
        if self.prompts and self.task != "embed":
            raise ValueError("several prompts can be embedded only; send a request for each")
        if self.messages and sum(len(message.content) for message in self.messages) > MAX_PROMPT_CHARS:
            raise ValueError(f"the messages have more than {MAX_PROMPT_CHARS} characters together")
        if self.prompts and sum(map(len, self.prompts)) > MAX_PROMPT_CHARS:
            raise ValueError(f"the prompts have more than {MAX_PROMPT_CHARS} characters together")
        return self

    @property
    def query(self) -> str:
        """The text by which memories are retrieved: the prompt, or the chat's last message."""
        return (self.prompt or "") if self.messages is None else self.messages[-1].content

    @property
    def namespaces(self) -> list[str]:
        return [self.namespace] if isinstance(self.namespace, str) else list(dict.fromkeys(self.namespace))

    @property
    def remembered(self) -> list[str]:
        """The namespaces whose memories the answer needs: none without memory, and none to embed."""
        needed = self.task == "retrieve" or (self.task == "generate" and self.use_memory)
        return self.namespaces if needed else []


def decode_request(value: bytes | None) -> GenerationRequest:
    """The request of a record on `generation-requests`. Raises BadMessage."""
    return decode(GenerationRequest, value, limit=4 * MAX_PROMPT_CHARS)


def request_id_of(key: bytes | None) -> str | None:
    """The request_id in a key; None for a key that is not one."""
    try:
        text = decode_key(key, "request_id")
    except BadMessage:
        return None
    return text if text is not None and re.fullmatch(REQUEST_ID_PATTERN, text) else None
