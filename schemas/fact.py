"""`facts`: the public input topic. Any Kafka client may write to it; the key is the namespace.

A record is a fact, a conversation whose statements become facts, or a request about what is remembered, all decided in order
in their namespace.
"""

from contextlib import suppress
from typing import Annotated, Any, Literal, NamedTuple, Self

import orjson
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from schemas.common import (
    DEFAULT_NAMESPACE,
    BadMessage,
    Cardinality,
    FactText,
    Finite,
    Identifier,
    Key,
    LocalTime,
    MemoryId,
    Message,
    Metadata,
    Namespace,
    Printable,
    ShortText,
    SpeakerName,
    Timestamp,
    decode_key,
    parse_json,
    validate,
)

MAX_MESSAGES = 256
"""Most messages of one record."""
MAX_CHARS = 64 * 1024
"""Most characters of its messages together."""


class Fact(Message):
    """One fact to remember."""

    text: FactText
    category: ShortText | None = Field(
        default=None, description="Groups facts; pruning keeps a balance between categories."
    )
    namespace: Namespace | None = Field(default=None, description="By default the Kafka key, else `default`.")
    fact_id: Identifier | None = Field(
        default=None, description="The upstream system's own id of this statement; a fact_id is decided once."
    )
    source: ShortText | None = Field(default=None, description="The system that states it.")
    key: Key | None = Field(
        default=None,
        description="The upstream system's own name of what is stated, such as table, primary key and column: "
        "a newer fact of the same key replaces the older one, whatever its words.",
    )
    cardinality: Cardinality | None = Field(
        default=None,
        description="How many values the key has at a time: `one` (the default), or `many`, which stand side by side.",
    )
    metadata: Metadata | None = Field(
        default=None, description="A JSON object of at most 4 KiB that travels with the fact."
    )
    observed_at: Timestamp | None = Field(
        default=None,
        description="When it was observed; the newer of two versions wins. By default the Kafka timestamp.",
    )
    valid_until: Timestamp | None = Field(
        default=None, description="From this time on it takes no part in answers. By default it has no end."
    )
    min_loss_delta: Finite | None = Field(
        default=None,
        description="Learn only what lowers the model's loss by this much (nats per token); "
        "0 learns everything that is new.",
    )


class Turn(Message):
    """One message of a conversation."""

    role: Literal["user", "assistant", "system", "developer", "tool"]
    content: Annotated[Printable, Field(max_length=MAX_CHARS)] = ""
    name: SpeakerName | None = Field(
        default=None, description="The speaker. Without it a fact speaks of `the user`."
    )
    timestamp: LocalTime | None = Field(
        default=None,
        description="When it was said; by default the conversation's timestamp. With the speaker's own UTC offset "
        '"yesterday" is the day before the speaker\'s.',
    )


class Conversation(Message):
    """What people said. The sentences of users that state something are learned; questions and greetings are not.

    Only what users say is learned: messages of the assistant, the system and tools are not.
    """

    messages: Annotated[list[Turn], Field(min_length=1, max_length=MAX_MESSAGES)]
    timestamp: LocalTime | None = Field(
        default=None, description="When it took place. By default the Kafka timestamp."
    )
    category: ShortText | None = Field(default=None, description="As for a fact: of all its facts.")
    namespace: Namespace | None = Field(default=None, description="By default the Kafka key, else `default`.")
    fact_id: Identifier | None = Field(
        default=None,
        description="The upstream system's own id of this record, at most 240 characters; its facts have it with `#` and "
        "the sentence's number, so each is decided once.",
    )
    source: ShortText | None = Field(default=None, description="As for a fact: of all its facts.")
    metadata: Metadata | None = Field(
        default=None,
        description="As for a fact; `speaker` and `said`, the sentence as it was said, are added.",
    )
    valid_until: Timestamp | None = Field(default=None, description="As for a fact: of all its facts.")
    min_loss_delta: Finite | None = Field(
        default=None,
        description="Learn what lowers the model's loss by this much (nats per token); 0 learns every new statement. By "
        "default a sentence must also have words that are rare enough, because most of a conversation is not worth a memory.",
    )

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if sum(len(message.content) for message in self.messages) > MAX_CHARS:
            raise ValueError(
                f"the messages have more than {MAX_CHARS} characters together; send fewer a record"
            )
        if self.fact_id is not None and len(self.fact_id) > 240:
            raise ValueError("the fact_id of a conversation has at most 240 characters")
        return self


class Forget(Message):
    """A request to remove a memory."""

    forget: MemoryId
    namespace: Namespace | None = None
    erase: bool = Field(
        default=False,
        description="Also take its text out of the data folder, for a person who asks for deletion.",
    )


class _Sweep(Message):
    """A request to remove several memories."""

    model_config = ConfigDict(
        json_schema_extra={
            "not": {
                "required": ["erase", "observed_at"],
                "properties": {"erase": {"const": True}, "observed_at": {"not": {"type": "null"}}},
            }
        }
    )

    namespace: Namespace | None = None
    erase: bool = Field(
        default=False, description="As for one memory, for all that was stated; it takes no observed_at."
    )
    observed_at: Timestamp | None = Field(
        default=None, description="What was observed later stays. By default nothing stays."
    )

    @model_validator(mode="after")
    def _erases_all(self) -> Self:
        if self.erase and self.observed_at is not None:
            raise ValueError("an erasure takes no observed_at: it erases all that was stated before it")
        return self


class ForgetKey(_Sweep):
    """A request to remove what a key states. A fact of the key that was observed before stays forgotten.

    Before: earlier than `observed_at`, else than the Kafka timestamp.
    """

    forget_key: Key
    fact_id: Identifier | None = Field(
        default=None,
        description="The upstream system's own id of this request; like that of a fact it is decided once, so that a "
        "deletion that is sent again does not remove what was stated at the same time and after it.",
    )


class ForgetAll(_Sweep):
    """A request to remove all memories of a namespace."""

    forget_all: Literal[True]


class Restore(Message):
    """A request to bring back a memory that another one superseded."""

    restore: MemoryId
    namespace: Namespace | None = None


Request = Forget | ForgetKey | ForgetAll | Restore
FactMessage = Fact | Conversation | Request
"""All that may be on the topic."""

_KINDS: dict[str, type[FactMessage]] = {
    "text": Fact,
    "messages": Conversation,
    "forget": Forget,
    "forget_key": ForgetKey,
    "forget_all": ForgetAll,
    "restore": Restore,
}
"""Kinds of records, by the field that only they have."""

_NAMESPACE: TypeAdapter[str] = TypeAdapter(Namespace)


class FactRecord(NamedTuple):
    """A decoded record of the topic."""

    namespace: str
    message: FactMessage
    unknown: list[str]
    """Fields that the message does not have, and that were left out."""


def decode_fact(key: bytes | None, value: bytes | None, strict: bool = False) -> FactRecord:
    """The namespace and the message of a record on `facts`. Raises BadMessage, with `strict` also for an unknown field.

    The namespace is that of the body, else the key, else `default`. A key that differs from the body's namespace is
    refused: the key decides the partition, hence the order.
    """
    # A serializer of one class for all records writes null for what a record does not have.
    body = {name: field for name, field in parse_json(value).items() if field is not None}
    model = _model(body)
    unknown = list[str]() if strict else _leave_out_unknown(model, body)
    if not strict and model is Conversation and isinstance(body["messages"], list):
        turns = (turn for turn in body["messages"] if isinstance(turn, dict))
        unknown += [f"messages.{name}" for turn in turns for name in _leave_out_unknown(Turn, turn)]
    message = validate(model, body)
    own = namespace_of_key(key)
    if own is not None and message.namespace is not None and own != message.namespace:
        raise BadMessage(
            "key-mismatch", f"the key is the namespace {own!r}, but the body names {message.namespace!r}"
        )
    return FactRecord(message.namespace or own or DEFAULT_NAMESPACE, message, unknown)


def namespace_of_key(key: bytes | None) -> str | None:
    """The namespace in a Kafka key, None for none. Raises BadMessage.

    A JSON serializer writes a key in quotation marks, which are not part of the namespace.
    """
    text = decode_key(key, "namespace")
    if not text:
        return None
    if text.startswith('"') and text.endswith('"'):
        with suppress(orjson.JSONDecodeError):
            text = orjson.loads(text)
    try:
        return _NAMESPACE.validate_python(text)
    except ValidationError as error:
        what = error.errors(include_url=False, include_input=False, include_context=False)[0]["msg"]
        raise BadMessage("invalid-key", f"the key {text[:80]!r} is not a namespace: {what}") from None


def _leave_out_unknown(model: type[Message], body: dict[str, Any]) -> list[str]:
    """Removes the fields that the model does not have, and those that are null. Returns the names of the first."""
    unknown = [name for name in body if name not in model.model_fields]
    for name in [name for name, field in body.items() if field is None or name in unknown]:
        del body[name]
    return unknown


def _model(body: dict[str, Any]) -> type[FactMessage]:
    """The message that a body is. Raises BadMessage where it may be two."""
    kinds = [name for name in _KINDS if name in body]
    if len(kinds) > 1:
        raise BadMessage(
            "invalid-field",
            f"{' and '.join(kinds)}: a record is a fact, a conversation or one request, not two of them",
        )
    return _KINDS[kinds[0]] if kinds else Fact
