"""Texts of a body that are given alone or in a list, so that what is wrong is named where it is.

A union of types would tell its first type, and not the item that is wrong.
"""

from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, ConfigDict

from schemas.common import Message


def _listed(value: Any) -> Any:
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list):
        raise ValueError("expected a text, or a list")
    return value


def _parts(value: Any) -> Any:
    return [{"type": "text", "text": value}] if isinstance(value, str) else _listed(value)


def _is_text(kind: str) -> str:
    if kind != "text":
        raise ValueError(f"only parts of the type text are read, not {kind[:40]!r}")
    return kind


class Part(Message):
    """A part of a message; what else it has is left out."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)

    type: Annotated[str, AfterValidator(_is_text)]
    text: str


Listed = BeforeValidator(_listed)
"""Validator of a list of texts: one alone is a list of it."""
Content = Annotated[list[Part], BeforeValidator(_parts)]
"""The content of a message, as OpenAI's and mem0's clients send it."""


def text_of(content: list[Part]) -> str:
    """The text of a content, a line for each part."""
    return "\n".join(part.text for part in content)
