"""Kafka Connect's JSON with schemas, `{"schema": …, "payload": …}`: the payload as its schema says.

Without the schema a price is base64 and a date a number of days. Connect's own types and those of Debezium are known here, by
name; a value that its type cannot hold (PostgreSQL's `infinity`) stays as it was sent.
"""

import base64
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Context, Decimal
from typing import Any

from schemas.common import BadMessage

MAX_DIGITS = 1000
MAX_VALUES = 500_000
"""Values that a payload may become: a null for each field of the schema that it lacks takes no bytes of the record."""
_EPOCH = datetime(1970, 1, 1)
_EXACT = Context(prec=4 * MAX_DIGITS)


def is_connect(value: Any) -> bool:
    """Whether a JSON value is Connect's envelope of schema and payload."""
    return (
        isinstance(value, dict)
        and value.keys() == {"schema", "payload"}
        and (value["schema"] is None or (isinstance(value["schema"], dict) and "type" in value["schema"]))
    )


def payload(value: dict[str, Any]) -> Any:
    """The payload of an envelope, with its logical types. Raises BadMessage where it does not follow its schema."""
    if value["schema"] is None:
        return value["payload"]
    try:
        return _read(value["schema"], value["payload"], iter(range(MAX_VALUES)))
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise BadMessage(
            "invalid-connect", f"the payload does not follow its schema: {type(error).__name__}: {error}"
        ) from None


def _read(schema: dict[str, Any], value: Any, left: Iterator[int]) -> Any:
    if next(left, None) is None:
        raise ValueError(f"it becomes more than {MAX_VALUES} values")
    if value is None:
        return None
    if logical := _LOGICAL.get(schema.get("name") or ""):
        try:
            return logical(schema, value)
        except (
            OverflowError,
            ValueError,
        ):  # out of range, or Debezium's placeholder for a value that it did not send
            return value
    kind = schema["type"]
    if kind == "struct":
        return {field["field"]: _read(field, value.get(field["field"]), left) for field in schema["fields"]}
    if kind == "array":
        return [_read(schema["items"], item, left) for item in value]
    if kind == "map":  # keys that are no strings come as a list of pairs
        pairs = value.items() if isinstance(value, dict) else value
        return {
            str(_read(schema["keys"], key, left)): _read(schema["values"], item, left) for key, item in pairs
        }
    return value


def _unscaled(text: str, scale: int) -> Decimal:
    if len(text) > MAX_DIGITS or abs(scale) > MAX_DIGITS:  # Python takes minutes for a million digits
        raise ValueError("a number of too many digits")
    number = int.from_bytes(base64.b64decode(text, validate=True), "big", signed=True)
    return Decimal(number).scaleb(-scale, _EXACT)


def _decimal(schema: dict[str, Any], value: Any) -> Decimal:
    if isinstance(value, str):
        return _unscaled(value, int(schema["parameters"]["scale"]))
    return Decimal(str(value))  # decimal.format=NUMERIC


def _since(unit: str) -> Callable[[dict[str, Any], Any], datetime]:
    return lambda _, value: _EPOCH + timedelta(**{unit: value})


def _time(unit: str) -> Callable[[dict[str, Any], Any], Any]:
    return lambda _, value: (_EPOCH + timedelta(**{unit: value})).time()


def _date(_: dict[str, Any], value: int) -> date:
    return (_EPOCH + timedelta(days=value)).date()


_LOGICAL: dict[str, Callable[[dict[str, Any], Any], Any]] = {
    "org.apache.kafka.connect.data.Decimal": _decimal,
    "org.apache.kafka.connect.data.Date": _date,
    "org.apache.kafka.connect.data.Time": _time("milliseconds"),
    "org.apache.kafka.connect.data.Timestamp": lambda s, v: _since("milliseconds")(s, v).replace(tzinfo=UTC),
    "io.debezium.data.VariableScaleDecimal": lambda _, v: _unscaled(v["value"], int(v["scale"])),
    "io.debezium.time.Date": _date,
    "io.debezium.time.Time": _time("milliseconds"),
    "io.debezium.time.MicroTime": _time("microseconds"),
    "io.debezium.time.NanoTime": lambda s, v: _time("microseconds")(s, v // 1000),
    "io.debezium.time.Timestamp": _since("milliseconds"),
    "io.debezium.time.MicroTimestamp": _since("microseconds"),
    "io.debezium.time.NanoTimestamp": lambda s, v: _since("microseconds")(s, v // 1000),
}
"""Readers of values, by the name of their type. Debezium's timestamps have no time zone, Connect's are UTC."""
