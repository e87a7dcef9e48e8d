"""`facts`: the public input topic. Any Kafka client may write to it; the key is the namespace."""

import re

from pydantic import Field

from schemas.common import (
    DEFAULT_NAMESPACE,
    NAMESPACE_PATTERN,
    BadMessage,
    FactText,
    Finite,
    MemoryId,
    Message,
    Namespace,
    ShortText,
    Timestamp,
    decode_key,
    parse_json,
    validate,
)


class Fact(Message):
    """One fact to remember."""

    text: FactText
    category: ShortText | None = Field(
        default=None, description="Groups facts; pruning keeps a balance between categories."
    )
    namespace: Namespace | None = Field(default=None, description="By default the Kafka key, else `default`.")
    fact_id: ShortText | None = Field(
        default=None, description="The upstream system's own id; a fact_id is decided once."
    )
    source: ShortText | None = Field(default=None, description="The system that states it.")
    observed_at: Timestamp | None = Field(
        default=None,
        description="When it was observed; the newer of two versions wins. By default the Kafka timestamp.",
    )
    min_loss_delta: Finite | None = Field(
        default=None,
        description="Learn only what lowers the model's loss by this much (nats per token); "
        "0 learns everything that is new.",
    )


class Forget(Message):
    """A request to remove a memory; decided in order with the namespace's facts."""

    forget: MemoryId
    namespace: Namespace | None = None
    erase: bool = Field(
        default=False,
        description="Also take its text out of the data folder, for a person who asks for deletion.",
    )


def decode_fact(key: bytes | None, value: bytes | None) -> tuple[str, Fact | Forget]:
    """The namespace and the message of a record on `facts`. Raises BadMessage.

    The namespace is that of the body, else the key, else `default`. A key that differs from the body's namespace is
    refused: the key decides the partition, hence the order.
    """
    body = parse_json(value)
    message: Fact | Forget = validate(Forget, body) if "forget" in body else validate(Fact, body)
    key_text = decode_key(key, "namespace") or None
    if key_text is not None and not re.fullmatch(NAMESPACE_PATTERN, key_text):
        raise BadMessage("invalid-key", f"the key {key_text[:80]!r} is not a namespace ({NAMESPACE_PATTERN})")
    if key_text is not None and message.namespace is not None and key_text != message.namespace:
        raise BadMessage(
            "key-mismatch", f"the key is the namespace {key_text!r}, but the body names {message.namespace!r}"
        )
    return message.namespace or key_text or DEFAULT_NAMESPACE, message
