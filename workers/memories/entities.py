"""Entities: the user, agent, app and run that a memory belongs to, and the namespace that they are.

A user alone is the namespace of the same name, so that mem0's `user_id`, OpenAI's `user` and a fact's `namespace` mean one
memory. Other entities are written `agent=…`, several together `user=ann&run=7`, in this order. In the values %, & and = are
written %25, %26 and %3D. So each namespace is one set of entities, and each set one namespace, or it is refused.
"""

import unicodedata
from collections.abc import Mapping
from itertools import combinations

from schemas.common import BadMessage
from workers.memories.headers import valid_namespace

FIELDS = ("user_id", "agent_id", "app_id", "run_id")
ANY = "*"
"""Any value, in a filter. So no entity is called that."""

Entities = Mapping[str, str]
"""Entities of a memory, by field. A missing field is an entity that the memory does not have."""

_KINDS = {field: field.removesuffix("_id") for field in FIELDS}
_ESCAPES = {"%": "%25", "&": "%26", "=": "%3D"}
_SHAPES = {
    tuple(_KINDS[field] for field in fields): fields
    for count in range(1, len(FIELDS) + 1)
    for fields in combinations(FIELDS, count)
}
"""The fields, by what a namespace names in this order."""


def namespace_of(entities: Entities) -> str:
    """The namespace of these entities, one at least. Raises BadMessage."""
    named = {field: unicodedata.normalize("NFC", entities[field]) for field in FIELDS if field in entities}
    if not named:
        raise BadMessage("invalid-field", f"name one of {', '.join(FIELDS)} at least")
    for field, name in named.items():
        if name.strip() != name or name in ("", ANY):
            raise BadMessage("invalid-field", f"{field}: {name!r} is not a name")
    user = named.get("user_id")
    alone = user is not None and len(named) == 1 and entities_of(user) == named
    namespace = user if alone and user else _written(named)
    where = " and ".join(named) + (f", together {namespace[:200]!r}" if len(named) > 1 else "")
    valid = valid_namespace(namespace, where)
    if entities_of(valid) != named:  # a combining mark joined the sign before it
        raise BadMessage("invalid-field", f"{' and '.join(named)}: begin a name with another sign")
    return valid


def entities_of(namespace: str) -> dict[str, str]:
    """The entities of any namespace. One that `namespace_of` has not made is a user of that name."""
    parts = [part.partition("=")[::2] for part in namespace.split("&")]
    fields = _SHAPES.get(tuple(kind for kind, _ in parts))
    named = {field: _unescaped(value) for field, (_, value) in zip(fields or (), parts, strict=False)}
    plain = not named or "" in named.values() or _written(named) != namespace
    if plain or (list(named) == ["user_id"] and entities_of(named["user_id"]) == named):
        return {"user_id": namespace}
    return named


def _written(named: Entities) -> str:
    return "&".join(f"{_KINDS[field]}={_escaped(name)}" for field, name in named.items())


def _escaped(name: str) -> str:
    return "".join(_ESCAPES.get(sign, sign) for sign in name)


def _unescaped(name: str) -> str:
    for sign, code in reversed(_ESCAPES.items()):
        name = name.replace(code, sign)
    return name
