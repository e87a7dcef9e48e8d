"""The header that names a namespace, as every interface over HTTP reads it."""

from collections.abc import Mapping

NAMESPACE = "x-factstream-namespace"


def namespace_in(headers: Mapping[str, str]) -> str | None:
    """The value of the header as UTF-8, to be validated; None without it.

    Bytes that are no UTF-8 become signs that no namespace has, so that two wrong values are not one namespace.
    """
    value = headers.get(NAMESPACE)
    return None if value is None else value.encode("latin-1").decode("utf-8", "surrogateescape")
