"""The two values of a row that are never rendered: a null, and what Debezium did not send.

A template may test for them; reading one as text or as a number raises, so that no fact says "The lamp costs None euros".
PostgreSQL does not log an unchanged long column (TOAST), and Debezium sends a placeholder in its place.
"""

import base64
import hashlib
import json
import uuid
from typing import Any, NoReturn

PLACEHOLDER = "__debezium_unavailable_value"
_BYTES = PLACEHOLDER.encode()
_MD5 = uuid.UUID(bytes=hashlib.md5(_BYTES, usedforsecurity=False).digest(), version=3)
_PLACEHOLDERS = (
    PLACEHOLDER, base64.b64encode(_BYTES).decode(), _BYTES, str(_MD5), f'{{"{PLACEHOLDER}":"{PLACEHOLDER}"}}'
)  # fmt: skip
"""Debezium's placeholder as text, as bytes, in an array of UUIDs (Java's name-based one), and in an hstore as JSON."""


class NullRead(Exception):
    """A template reads a null column: the row does not state this."""


class UnavailableRead(Exception):
    """A template reads a column whose value was not sent: what the row states is unknown."""


class _Unreadable:
    """A value that raises `error` when it is read."""

    error: type[Exception]

    def _read(self, *_: object) -> NoReturn:
        raise self.error

    __str__ = __repr__ = __format__ = __int__ = __float__ = __index__ = __len__ = __iter__ = __contains__ = (
        _read
    )
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = _read
    __floordiv__ = __rfloordiv__ = __mod__ = __rmod__ = __pow__ = __rpow__ = __neg__ = __abs__ = __round__ = (
        _read
    )
    __lt__ = __le__ = __gt__ = __ge__ = __call__ = _read


class Null(_Unreadable):
    """A null: false, equal to none only, and so are its fields."""

    error = NullRead

    def __bool__(self) -> bool:
        return False

    def __eq__(self, other: object) -> bool:
        return other is None or isinstance(other, Null)

    def __hash__(self) -> int:
        return hash(None)

    def __getitem__(self, _: object) -> "Null":
        return self


class Unavailable(_Unreadable):
    """A value that was not sent: only that there is one is known."""

    error = UnavailableRead
    __bool__ = __eq__ = __hash__ = __getitem__ = _Unreadable._read


def guarded(value: Any) -> Any:
    """A decoded value with its nulls and placeholders, at any depth, in the shape that templates read."""
    if value is None:
        return Null()
    if isinstance(value, dict):  # a map that was not sent (hstore) has the placeholder as its key
        if PLACEHOLDER in value:
            return Unavailable()
        return {name: guarded(field) for name, field in value.items()}
    if isinstance(value, list):  # an array that was not sent has it as its element
        if (len(value) == 1 and _is_placeholder(value[0])) or value == list(
            _BYTES
        ):  # of whole numbers: its bytes
            return Unavailable()
        return [guarded(item) for item in value]
    return Unavailable() if _is_placeholder(value) else value


def _is_placeholder(value: Any) -> bool:
    return isinstance(value, str | bytes) and value in _PLACEHOLDERS


def as_json(value: Any) -> str:
    """A value of a template as JSON: numbers that JSON lacks, times and bytes as text."""
    return json.dumps(value, default=_plain, ensure_ascii=False, sort_keys=True)


def _plain(value: Any) -> Any:
    if isinstance(value, Null):
        return None
    return value.hex() if isinstance(value, bytes) else str(value)
