"""Common parts of all messages: limits, field types, and decoding from strict JSON.

Nothing on a topic is trusted. `decode` turns bytes into a model or raises `BadMessage`, whose `reason` is a
short code for dashboards and whose text tells a person what to fix. It raises nothing else.
"""

import base64
import re
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar

import orjson
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    WithJsonSchema,
)

MAX_TEXT_BYTES = 8 * 1024
"""Longest text of a fact, in bytes of UTF-8."""
MAX_MESSAGE_BYTES = 256 * 1024
"""Longest JSON message that is parsed at all; a longer one is a dead letter."""
NAMESPACE_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,63}$"
MEMORY_ID_PATTERN = r"^[0-9a-f]{32}$"
REQUEST_ID_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$"
DEFAULT_NAMESPACE = "default"
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")


class BadMessage(ValueError):
    """An invalid message: `reason` is a stable code, the text says what is wrong."""

    def __init__(self, reason: str, error: str) -> None:
        super().__init__(error)
        self.reason = reason


def _printable(text: str) -> str:
    """Refuse control characters, which terminals obey, except tab and line breaks."""
    if found := _UNPRINTABLE.search(text):
        if found[0] >= "\ud800":
            raise ValueError("a lone surrogate, which UTF-8 cannot encode")
        raise ValueError(f"control character U+{ord(found[0]):04X}")
    return text


def _fact_text(text: str) -> str:
    if not text.strip():
        raise ValueError("the text is blank")
    if (size := len(text.encode("utf-8", "surrogatepass"))) > MAX_TEXT_BYTES:
        raise ValueError(f"the text has {size} bytes; at most {MAX_TEXT_BYTES} are allowed")
    return _printable(text)


def _timestamp(value: Any) -> datetime:
    """ISO 8601 only: a bare number could be seconds or milliseconds. Without an offset it is UTC."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            raise ValueError("not an ISO 8601 time such as 2026-03-01T12:00:00Z") from None
    if not isinstance(value, datetime):
        raise ValueError("a time is a string in ISO 8601, such as 2026-03-01T12:00:00Z")
    try:
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    except OverflowError:
        raise ValueError("the time is out of range") from None


def _from_base64(value: Any) -> Any:
    """JSON has no bytes, so a string is base64. Bytes given in Python stay as they are."""
    return base64.b64decode(value, validate=True) if isinstance(value, str) else value


FactText = Annotated[
    str,
    AfterValidator(_fact_text),
    Field(
        min_length=1,
        max_length=MAX_TEXT_BYTES,
        description="One fact in words: not blank, at most 8 KiB of UTF-8.",
        json_schema_extra={"pattern": r"\S"},
    ),
]
ShortText = Annotated[str, AfterValidator(_printable), Field(min_length=1, max_length=256)]
Namespace = Annotated[
    str,
    Field(
        pattern=NAMESPACE_PATTERN,
        description="A tenant, a user or a persona; the unit of order and of privacy.",
    ),
]
MemoryId = Annotated[str, Field(pattern=MEMORY_ID_PATTERN, description="32 hex digits.")]
RequestId = Annotated[
    str, Field(pattern=REQUEST_ID_PATTERN, description="Chosen by the client; the Kafka key.")
]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Timestamp = Annotated[
    datetime,
    BeforeValidator(_timestamp),
    WithJsonSchema(
        {"type": "string", "format": "date-time", "description": "ISO 8601; UTC where no offset is given."}
    ),
]
Blob = Annotated[
    bytes,
    BeforeValidator(_from_base64),
    PlainSerializer(lambda data: base64.b64encode(data).decode(), return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "contentEncoding": "base64"}),
]
Offset = Annotated[int, Field(ge=0, le=2**63 - 1)]
Positions = Annotated[
    dict[Annotated[str, Field(max_length=128)], Offset],
    Field(max_length=1024, description='The last fact decided, by "topic_id/partition".'),
]


class Message(BaseModel):
    """Base of every JSON message: frozen, strict about types, without unknown fields."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


M = TypeVar("M", bound=Message)


def parse_json(value: bytes | None, limit: int = MAX_MESSAGE_BYTES) -> dict[str, Any]:
    """The JSON object in `value`. Raises BadMessage. orjson refuses NaN and infinities by itself."""
    if value is None:
        raise BadMessage("empty", "the message has no value")
    if len(value) > limit:
        raise BadMessage("too-large", f"the message has {len(value)} bytes; at most {limit} are read")
    try:
        value.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadMessage("invalid-utf8", f"byte {error.start} is not valid UTF-8") from None
    try:
        body = orjson.loads(value)
    except (orjson.JSONDecodeError, RecursionError) as error:
        raise BadMessage("invalid-json", f"not JSON: {error}") from None
    if not isinstance(body, dict):
        raise BadMessage("invalid-json", "the message is JSON, but not an object")
    return body


def validate(model: type[M], body: dict[str, Any]) -> M:
    """`body` as a `model`. Raises BadMessage with one clear line: the field and what is wrong with it."""
    try:
        return model.model_validate(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        field = ".".join(str(part) for part in first["loc"])[:100]
        reason = "unknown-field" if first["type"] == "extra_forbidden" else "invalid-field"
        raise BadMessage(reason, f"{field}: {first['msg']}" if field else first["msg"]) from None


def decode(model: type[M], value: bytes | None, limit: int = MAX_MESSAGE_BYTES) -> M:
    """A message from JSON. Raises BadMessage."""
    return validate(model, parse_json(value, limit))


def encode(message: Message) -> bytes:
    """The message as JSON, without the fields that are None."""
    return message.model_dump_json(exclude_none=True).encode()


def decode_key(key: bytes | None, what: str) -> str | None:
    """A Kafka key as text, None for no key. what: the kind of key, for the error's text. Raises BadMessage."""
    if key is None:
        return None
    try:
        return key.decode("utf-8")
    except UnicodeDecodeError:
        raise BadMessage("invalid-key", f"the key is not valid UTF-8; it must be the {what}") from None
