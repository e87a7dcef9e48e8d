"""`facts`: the public way in. Any Kafka client may write it; the key is the namespace."""

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
    """One thing to remember."""

    text: FactText
    category: ShortText | None = Field(
        default=None, description="Groups facts; pruning keeps a balance between categories."
    )
    namespace: Namespace | None = Field(
        default=None, description="The Kafka key's when left out, else `default`."
    )
    fact_id: ShortText | None = Field(
        default=None, description="The upstream system's own id; a fact_id is decided once."
    )
    source: ShortText | None = Field(default=None, description="The system that says so.")
    observed_at: Timestamp | None = Field(
        default=None,
        description="When it was so; the newer of two versions wins. The Kafka timestamp when left out.",
    )
    min_loss_delta: Finite | None = Field(
        default=None,
        description="Learn only what lowers the model's loss by this much (nats per token); "
        "0 learns whatever is new.",
    )


class Forget(Message):
    """A memory to remove; decided in order with the namespace's facts."""

    forget: MemoryId
    namespace: Namespace | None = None
    erase: bool = Field(
        default=False,
        description="Take its text out of the data folder too, for a person who asks for deletion.",
    )


def decode_fact(key: bytes | None, value: bytes | None) -> tuple[str, Fact | Forget]:
    """The namespace and the message of a record on `facts`; raises `BadMessage`.

    The namespace is the body's; the key's where the body has none; `default` where neither has one. A key
    that says something else than the body is refused: the key decides the partition, hence the order.
    """
    body = parse_json(value)
    message: Fact | Forget = validate(Forget, body) if "forget" in body else validate(Fact, body)
    key_text = decode_key(key, "namespace") or None
    if key_text is not None and not re.fullmatch(NAMESPACE_PATTERN, key_text):
        raise BadMessage("invalid-key", f"the key {key_text[:80]!r} is not a namespace ({NAMESPACE_PATTERN})")
    if key_text is not None and message.namespace is not None and key_text != message.namespace:
        raise BadMessage(
            "key-mismatch", f"the key says namespace {key_text!r}, the body {message.namespace!r}"
        )
    return message.namespace or key_text or DEFAULT_NAMESPACE, message
