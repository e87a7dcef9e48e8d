"""Common parts of all messages: limits, field types, and decoding from strict JSON.

Nothing on a topic is trusted. `decode` turns bytes into a model or raises `BadMessage`, whose `reason` is a
short code for dashboards and whose text tells a person what to fix. It raises nothing else.
"""

import base64
import re
import unicodedata
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal, TypeVar

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
MAX_METADATA_BYTES = 4 * 1024
"""Largest metadata of a fact, in bytes of JSON."""
NAMESPACE_PATTERN = r"^[^\u0000-\u001f\u007f-\u009f]{1,128}$"
MEMORY_ID_PATTERN = r"^[0-9a-f]{32}$"
REQUEST_ID_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$"
DEFAULT_NAMESPACE = "default"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LEAST_MILLISECONDS = 100_000_000_000
"""1973, as epoch milliseconds; the year 5138, as epoch seconds: so the two cannot be confused."""
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
    return _local_time(value).astimezone(UTC)


def _local_time(value: Any) -> datetime:
    """ISO 8601, or a whole number of milliseconds since 1970, in its own offset. Without one it is UTC."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            raise ValueError("not an ISO 8601 time such as 2026-03-01T12:00:00Z") from None
    elif isinstance(value, int) and not isinstance(value, bool):
        value = _of_milliseconds(value)
    if not isinstance(value, datetime):
        raise ValueError(
            "a time is ISO 8601, such as 2026-03-01T12:00:00Z, or epoch milliseconds, a whole number"
        )
    time = value.replace(tzinfo=UTC) if value.tzinfo is None else value
    try:
        time.astimezone(UTC)
    except OverflowError:
        raise ValueError("the time is out of range") from None
    return time


def _of_milliseconds(number: int) -> datetime:
    if abs(number) < _LEAST_MILLISECONDS:
        raise ValueError(
            f"a number is a time in epoch milliseconds, and {number} may be seconds: write ISO 8601"
        )
    try:
        return _EPOCH + timedelta(milliseconds=number)
    except OverflowError:
        raise ValueError("the time is out of range; a number is a time in epoch milliseconds") from None


def _namespace(text: str) -> str:
    text = unicodedata.normalize("NFC", text)
    if not re.fullmatch(NAMESPACE_PATTERN, _printable(text)):
        raise ValueError("a namespace has 1 to 128 characters, none of them a control character")
    return text


def _key(text: str) -> str:
    return unicodedata.normalize("NFC", _printable(text))


def _identifier(value: Any) -> Any:
    """A whole number, as databases have for ids, is taken as its digits."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def metadata_text(metadata: dict[str, Any]) -> str:
    """The metadata of a fact as JSON, always written in the same way. Raises ValueError."""
    try:
        text = orjson.dumps(metadata, option=orjson.OPT_SORT_KEYS)
    except (TypeError, RecursionError) as error:
        raise ValueError(f"not a JSON object: {error}") from None
    if len(text) > MAX_METADATA_BYTES:
        raise ValueError(
            f"the metadata has {len(text)} bytes of JSON; at most {MAX_METADATA_BYTES} are allowed"
        )
    return text.decode()


def _metadata(metadata: dict[str, Any]) -> dict[str, Any]:
    metadata_text(metadata)
    return metadata


def _metadata_column(text: str) -> str:
    """Metadata as its text: a JSON object as `metadata_text` writes it."""
    try:
        metadata = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error}") from None
    if not isinstance(metadata, dict) or metadata_text(metadata) != text:
        raise ValueError("not a JSON object as it is written")
    return text


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
Printable = Annotated[str, AfterValidator(_printable)]
SpeakerName = Annotated[
    str,
    AfterValidator(_printable),
    Field(min_length=1, max_length=64, pattern=r"^\S(.*\S)?$", json_schema_extra={"pattern": r"^\S(.*\S)?$"}),
]
Namespace = Annotated[
    str,
    AfterValidator(_namespace),
    Field(
        json_schema_extra={"pattern": NAMESPACE_PATTERN},
        description="A tenant, a user or a persona; the unit of order and of privacy. Any text of 1 to 128 characters "
        "without control characters; Unicode's normal form C is taken.",
    ),
]
Key = Annotated[str, AfterValidator(_key), Field(min_length=1, max_length=256)]
Cardinality = Literal["one", "many"]
Identifier = Annotated[
    str,
    BeforeValidator(_identifier),
    AfterValidator(_printable),
    Field(min_length=1, max_length=256),
    WithJsonSchema({"anyOf": [{"type": "string", "minLength": 1, "maxLength": 256}, {"type": "integer"}]}),
]
Metadata = Annotated[dict[str, Any], AfterValidator(_metadata)]
MetadataText = Annotated[str, AfterValidator(_metadata_column)]
MemoryId = Annotated[str, Field(pattern=MEMORY_ID_PATTERN, description="32 hex digits.")]
RequestId = Annotated[
    str, Field(pattern=REQUEST_ID_PATTERN, description="Chosen by the client; the Kafka key.")
]
Finite = Annotated[float, Field(allow_inf_nan=False)]
_TIME_SCHEMA = WithJsonSchema(
    {
        "anyOf": [
            {"type": "string", "format": "date-time"},
            {"type": "integer", "minimum": _LEAST_MILLISECONDS},
            {"type": "integer", "maximum": -_LEAST_MILLISECONDS},
        ],
        "description": "ISO 8601, UTC where no offset is given; or epoch milliseconds.",
    }
)
Timestamp = Annotated[datetime, BeforeValidator(_timestamp), _TIME_SCHEMA]
LocalTime = Annotated[datetime, BeforeValidator(_local_time), _TIME_SCHEMA]
"""A time that keeps its own UTC offset: the day that it is there."""
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
    """The JSON object in `value`, a byte order mark before it or not. Raises BadMessage.

    orjson refuses NaN and infinities by itself.
    """
    if value is None:
        raise BadMessage("empty", "the message has no value")
    if len(value) > limit:
        raise BadMessage("too-large", f"the message has {len(value)} bytes; at most {limit} are read")
    value = value.removeprefix(_BYTE_ORDER_MARK)
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
        what = first["msg"].removeprefix("Value error, ")
        raise BadMessage(reason, f"{field}: {what}" if field else what) from None


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
