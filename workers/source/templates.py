"""Templates: what an operator writes to turn a row into text, compiled once and rendered under limits.

The templates are trusted with their meaning and not with the process: they run in Jinja's sandbox, have no loader and nothing
random. Rows are only ever data: no part of a row is compiled.
"""

import re
from collections.abc import Mapping
from typing import Any

from jinja2 import StrictUndefined, TemplateSyntaxError, UndefinedError, meta
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from schemas.common import MAX_TEXT_BYTES, BadMessage
from workers.source.values import NullRead, UnavailableRead, as_json

VARIABLES = ("row", "key", "topic", "event")
"""What a template may read: the row, the record's key, the topic, and the attributes of a CloudEvent."""

Context = Mapping[str, Any]


MAX_BITS = 4096
"""Longest whole number that a power may make."""


class _Environment(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, in which a column called `items` or `values` is that column and not the dictionary's method.

    A number of a row cannot make a text of any length: "{{ '*' * row.stars }}" is as long as the row says.
    """

    intercepted_binops = frozenset({"*", "**", "%"})

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if _size(operator, left, right) > MAX_TEXT_BYTES:
            raise SecurityError(f"the result of {operator} is too long")
        return super().call_binop(context, operator, left, right)

    def getattr(self, obj: Any, attribute: str) -> Any:
        if isinstance(obj, dict) and attribute in obj:
            return obj[attribute]
        return super().getattr(obj, attribute)


def _size(operator: str, left: Any, right: Any) -> int:
    """How long the result of an operator is, at least; 0 where it cannot be long."""
    if operator == "%":
        if not isinstance(left, str):
            return 0
        fields = "".join(re.findall(_FIELD, left))
        widths = [int(digits) for digits in re.findall(r"[0-9]{1,9}", fields)]
        return (
            MAX_TEXT_BYTES + 1 if "*" in fields else max(widths, default=0)
        )  # *: a width that the row gives
    if operator == "**":
        whole = isinstance(left, int) and isinstance(right, int) and right > 0
        return MAX_TEXT_BYTES + 1 if whole and left.bit_length() * right > MAX_BITS else 0
    for text, times in ((left, right), (right, left)):
        if isinstance(text, str | bytes | list | tuple) and isinstance(times, int):
            return len(text) * times
    return 0


_FIELD = r"%%|%(?:\([^)]*\))?([-#0 +.0-9*]*)"
"""A field of a %-format: its flags, width and precision."""


def _environment() -> _Environment:
    made = _Environment(undefined=StrictUndefined, keep_trailing_newline=False, cache_size=0)
    made.globals = {"range": made.globals["range"]}
    del made.filters["random"]  # the same record makes the same facts
    made.tests["none"] = lambda value: value == None  # noqa: E711 - a null of a row, too
    made.policies["json.dumps_function"] = lambda value, **_: as_json(value)
    return made


_ENVIRONMENT = _environment()


class Template:
    """A text with `{{ … }}`. Raises ValueError, with the reason, if it is not a template."""

    def __init__(self, text: str) -> None:
        self.text = text
        _check(text)
        self._template = _ENVIRONMENT.from_string(text)

    def render(self, context: Context) -> str:
        """The text without blanks around it. Raises NullRead, UnavailableRead, and BadMessage where it cannot be rendered."""
        parts, size = [], 0
        try:
            for part in self._template.generate(context):
                parts.append(part)
                size += len(part)
                if size > MAX_TEXT_BYTES:
                    raise BadMessage("too-long", f"it renders to more than {MAX_TEXT_BYTES} characters")
        except (NullRead, UnavailableRead, BadMessage):
            raise
        except Exception as error:  # a template calls what it likes on what the row has
            raise _refused(error) from None
        return "".join(parts).strip()


class Condition:
    """A Jinja expression such as `row.status == 'active'`; `{{ … }}` may stand around it. Raises ValueError as Template does."""

    def __init__(self, text: str) -> None:
        self.text = text
        bare = text.strip()
        if bare.startswith("{{") and bare.endswith("}}"):
            bare = bare[2:-2]
        if "{{" in bare or "{%" in bare:
            raise ValueError("a condition is one expression, such as row.status == 'active'")
        try:
            self._expression = _ENVIRONMENT.compile_expression(bare, undefined_to_none=False)
        except TemplateSyntaxError as error:
            raise ValueError(f"not an expression: {error.message}") from None
        _check("{{ (" + bare + ") }}")

    def holds(self, context: Context) -> bool:
        """Whether it is true. Raises NullRead, UnavailableRead, BadMessage."""
        try:
            return bool(self._expression(context))
        except (NullRead, UnavailableRead):
            raise
        except Exception as error:
            raise _refused(error) from None


def _check(text: str) -> None:
    try:
        read = meta.find_undeclared_variables(_ENVIRONMENT.parse(text))
    except TemplateSyntaxError as error:
        raise ValueError(f"line {error.lineno} of the template: {error.message}") from None
    if unknown := sorted(read - {*VARIABLES, "range"}):
        raise ValueError(f"a template may read {', '.join(VARIABLES)}, and not {', '.join(unknown)}")


def _refused(error: Exception) -> BadMessage:
    reason = "undefined-field" if isinstance(error, UndefinedError) else "not-rendered"
    text = str(error).replace("'dict object' has no attribute", "there is no field")
    return BadMessage(reason, f"{text or type(error).__name__}"[:300])
