"""`facts`: a conversation, whose statements become facts.

The encoder splits it (pipeline/conversation): each sentence of a user that states something is a fact, with its speaker and its
date. All of them have the record's source offset, and travel together.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from schemas.common import (
    Finite,
    Identifier,
    LocalTime,
    Message,
    Metadata,
    Namespace,
    ShortText,
    Timestamp,
)

MAX_MESSAGES = 256
"""Most messages of one record."""
MAX_CHARS = 64 * 1024
"""Most characters of its messages together."""


class Said(Message):
    """One message of a conversation."""

    role: Literal["user", "assistant", "system", "developer", "tool"]
    content: Annotated[str, Field(max_length=MAX_CHARS)] = ""
    name: Annotated[ShortText, StringConstraints(max_length=64, pattern=r"^\S(.*\S)?$")] | None = Field(
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

    messages: Annotated[list[Said], Field(min_length=1, max_length=MAX_MESSAGES)]
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
        default=None, description="As for a fact; `speaker` and `said`, the sentence as it was said, are added."
    )
    valid_until: Timestamp | None = Field(default=None, description="As for a fact: of all its facts.")
    min_loss_delta: Finite | None = Field(
        default=None,
        description="Learn only what lowers the model's loss by this much (nats per token); by default more is asked than of "
        "a fact, because most sentences of a conversation are not worth a memory. 0 learns every new statement.",
    )

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if sum(len(message.content) for message in self.messages) > MAX_CHARS:
            raise ValueError(f"the messages have more than {MAX_CHARS} characters together; send fewer a record")
        if self.fact_id is not None and len(self.fact_id) > 240:
            raise ValueError("the fact_id of a conversation has at most 240 characters")
        return self
