"""The namespace of a request, as every interface over HTTP reads it: its header, and its check."""

from collections.abc import Mapping

from pydantic import TypeAdapter, ValidationError

from schemas.common import BadMessage, Namespace

NAMESPACE = "x-factstream-namespace"


def namespace_in(headers: Mapping[str, str]) -> str | None:
    """The value of the header as UTF-8, to be validated; None without it.

    Bytes that are no UTF-8 become signs that no namespace has, so that two wrong values are not one namespace.
    """
    value = headers.get(NAMESPACE)
    return None if value is None else value.encode("latin-1").decode("utf-8", "surrogateescape")


def valid_namespace(value: str, where: str = "namespace") -> str:
    """The namespace that somebody named. where: its place in the request, for the error's text. Raises BadMessage."""
    try:
        return _NAMESPACE.validate_python(value)
    except ValidationError as error:
        what = error.errors(include_url=False, include_input=False, include_context=False)[0]["msg"]
        raise BadMessage("invalid-field", f"{where}: {what.removeprefix('Value error, ')}") from None


_NAMESPACE: TypeAdapter[str] = TypeAdapter(Namespace)
