"""The mapping, a pure function: what a change of a row means for the statements of its source.

A statement's identity is its namespace and key; the row's new text replaces the old one under it. The old text is read from
the row before the change, where the source sends it, so that a redelivery or a restart maps a record to the same facts.
"""

from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Any, Literal, NamedTuple

import orjson
from pydantic import TypeAdapter, ValidationError

from schemas.common import BadMessage, FactText, Namespace, ShortText, Timestamp
from workers.source.change import Change, Row
from workers.source.config import Source, Statement
from workers.source.templates import Condition, Context, Template
from workers.source.values import NullRead, UnavailableRead, guarded

MAX_SHORT = 256
"""Characters of a key or a category."""
MAX_METADATA_BYTES = 4 * 1024

Verdict = Literal["states", "forgets", "unchanged", "nothing", "unavailable", "refused"]


class Message(NamedTuple):
    """A message for `facts`: its Kafka key, and its body."""

    namespace: str
    body: dict[str, Any]


@dataclass(frozen=True)
class Mapped:
    """What a change means for one statement: a verdict, the reason for a person, and the messages to send, in order."""

    statement: str
    verdict: Verdict
    reason: str = ""
    messages: tuple[Message, ...] = ()
    error: BadMessage | None = None


class Identity(NamedTuple):
    namespace: str
    key: str


def map_change(source: Source, change: Change, record_id: str) -> list[Mapped]:
    """What a change means for each statement. `record_id` names the record: the same for every delivery of it."""
    return [
        _mapped(name, statement, change, source.compare_before, record_id)
        for name, statement in source.statements.items()
    ]


def _mapped(name: str, statement: Statement, change: Change, compare: bool, record_id: str) -> Mapped:
    try:
        if change.after is None:
            return _of_deleted(name, statement, change, record_id)
        return _of_present(name, statement, change, compare, record_id)
    except UnavailableRead:
        return Mapped(
            name, "unavailable", "it reads a column that the source did not send (TOAST): as it was"
        )
    except BadMessage as error:
        return Mapped(name, "refused", str(error), error=error)


def _of_deleted(name: str, statement: Statement, change: Change, record_id: str) -> Mapped:
    if not _may_be_about(name, statement, change):
        return Mapped(name, "nothing", "the record is not about it (`where`)")
    context = _context(change, {**(change.before or {}), **change.key_columns})
    try:
        identity = _identity(name, statement, change, context)
    except BadMessage as error:
        raise BadMessage(error.reason, f"{error}; of a deleted row {_known(change)}") from None
    return Mapped(name, "forgets", "the row is deleted", (_forget(name, identity, change, record_id),))


def _known(change: Change) -> str:
    names = sorted({*(change.before or {}), *change.key_columns})
    return f"only these are known: {', '.join(names)[:200]}" if names else "only the key is known"


def _of_present(name: str, statement: Statement, change: Change, compare: bool, record_id: str) -> Mapped:
    assert change.after is not None
    context = _context(change, change.after)
    if not _is_about(name, statement, context):
        return Mapped(name, "nothing", "the record is not about it (`where`)")
    identity = _identity(name, statement, change, context)
    content = _content(name, statement, context)
    old = _before(name, statement, change) if compare else None
    if old == (identity, content):
        return Mapped(name, "unchanged" if content else "nothing", "the row states the same as before")
    messages = []
    if old and old[0] != identity:
        messages.append(_forget(name, old[0], change, record_id))
    if content:
        messages.append(_fact(name, identity, content, change, record_id))
        return Mapped(name, "states", "", tuple(messages))
    if change.created:
        return Mapped(name, "nothing", "the new row does not state it")
    messages.append(_forget(name, identity, change, record_id))
    return Mapped(name, "forgets", "the row does not state it (any more)", tuple(messages))


def _before(name: str, statement: Statement, change: Change) -> tuple[Identity, dict[str, Any] | None] | None:
    """The content of the statement before the change, {} if the row was not about it; None where the source does not tell."""
    if change.before is None:
        return None
    context = _context(change, change.before)
    try:
        content = _content(name, statement, context) if _is_about(name, statement, context) else {}
        return _identity(name, statement, change, context), content
    except (UnavailableRead, BadMessage):
        return None


def _context(change: Change, row: Row) -> Context:
    key = guarded(change.key)
    return {
        "row": guarded(dict(row)),
        "key": key,
        "topic": change.topic,
        "event": guarded(dict(change.event)),
    }


def _identity(name: str, statement: Statement, change: Change, context: Context) -> Identity:
    assert statement.namespace is not None
    namespace = _part(name, "namespace", statement.namespace, context)
    if statement.key:
        key = _part(name, "key", statement.key, context)
    elif change.key is None:
        raise BadMessage(
            "no-key", f"{name}: the record has no key, so the statement needs a template `key` of its own"
        )
    else:
        key = f"{change.topic}:{_key_text(change.key)}:{name}"
    return Identity(_valid(_NAMESPACE, namespace, f"{name}.namespace"), _valid(_SHORT, key, f"{name}.key"))


def _part(name: str, field: str, template: Template, context: Context) -> str:
    """A text that must be there: without it nothing could be found again."""
    try:
        if text := _rendered(name, field, template, context):
            return text
    except NullRead:
        pass
    raise BadMessage(
        "null-identity", f"{name}.{field}: it is blank, or reads a null: use the primary key's columns only"
    )


def _key_text(key: Any) -> str:
    """A record's key as text: of one column its value, of several a JSON object in the order of their names."""
    values = list(key.values()) if isinstance(key, dict) else [key]
    if len(values) == 1 and not isinstance(values[0], dict | list | bytes | None):
        return str(values[0])
    try:
        return orjson.dumps(key, default=_plain, option=orjson.OPT_SORT_KEYS).decode()
    except orjson.JSONEncodeError as error:
        raise BadMessage("invalid-key", f"the record's key has no text: {error}") from None


def _plain(value: Any) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)


def _content(name: str, statement: Statement, context: Context) -> dict[str, Any] | None:
    """The fields of a fact that the row decides; None if the row does not state it: a condition, a null, a blank text."""
    try:
        if statement.when and not _holds(name, "when", statement.when, context):
            return None
        text = _rendered(name, "text", statement.text, context)
    except NullRead:
        return None
    if not text:
        return None
    content: dict[str, Any] = {"text": _valid(_TEXT, text, f"{name}.text")}
    optional = {"category": (statement.category, _SHORT), "valid_until": (statement.valid_until, _TIME)}
    for field, (template, kind) in optional.items():
        if template and (value := _or_none(name, field, template, context)):
            valid = _valid(kind, value, f"{name}.{field}")
            content[field] = valid.isoformat() if isinstance(valid, datetime) else valid
    metadata = {
        field: value
        for field, template in statement.metadata.items()
        if (value := _or_none(name, f"metadata.{field}", template, context)) is not None
    }
    if len(orjson.dumps(metadata)) > MAX_METADATA_BYTES:
        raise BadMessage("invalid-field", f"{name}.metadata: more than {MAX_METADATA_BYTES} bytes")
    if metadata:
        content["metadata"] = metadata
    if statement.min_loss_delta is not None:
        content["min_loss_delta"] = statement.min_loss_delta
    return content


def _holds(name: str, field: str, condition: Condition, context: Context) -> bool:
    try:
        return condition.holds(context)
    except BadMessage as error:
        raise BadMessage(error.reason, f"{name}.{field}: {error}") from None


def _is_about(name: str, statement: Statement, context: Context) -> bool:
    """Whether a record is about the statement; one whose condition reads a null is not."""
    try:
        return not statement.where or _holds(name, "where", statement.where, context)
    except NullRead:
        return False


def _may_be_about(name: str, statement: Statement, change: Change) -> bool:
    """Whether a deletion is about the statement, as far as the key and the event tell; a condition on other columns says nothing."""
    try:
        return _is_about(name, statement, _context(change, change.key_columns))
    except BadMessage:
        return True


def _rendered(name: str, field: str, template: Template, context: Context) -> str:
    try:
        return template.render(context)
    except BadMessage as error:
        raise BadMessage(error.reason, f"{name}.{field}: {error}") from None


def _or_none(name: str, field: str, template: Template, context: Context) -> str | None:
    try:
        return _rendered(name, field, template, context)
    except NullRead:
        return None


def _valid(kind: TypeAdapter[Any], value: str, where: str) -> Any:
    if kind is _SHORT and len(value) > MAX_SHORT:
        raise BadMessage(
            "invalid-field", f"{where}: {len(value)} characters; at most {MAX_SHORT} are allowed"
        )
    try:
        return kind.validate_python(value)
    except ValidationError as error:
        text = error.errors(include_url=False, include_input=False, include_context=False)[0]["msg"]
        raise BadMessage("invalid-field", f"{where}: {text.removeprefix('Value error, ')}") from None


_NAMESPACE: TypeAdapter[Any] = TypeAdapter(Namespace)
_TEXT: TypeAdapter[Any] = TypeAdapter(FactText)
_SHORT: TypeAdapter[Any] = TypeAdapter(ShortText)
_TIME: TypeAdapter[Any] = TypeAdapter(Timestamp)


def _fact(name: str, identity: Identity, content: dict[str, Any], change: Change, record_id: str) -> Message:
    body = {**content, "key": identity.key, "source": change.topic[:256]}
    return _message(name, identity, body, change, record_id)


def _forget(name: str, identity: Identity, change: Change, record_id: str) -> Message:
    return _message(name, identity, {"forget_key": identity.key}, change, record_id)


def _message(name: str, identity: Identity, body: dict[str, Any], change: Change, record_id: str) -> Message:
    """A message whose fact_id is the same for every delivery of its record, and another one once the file says something else."""
    body = {**body, "namespace": identity.namespace, **_observed(change)}
    digest = sha256(orjson.dumps(body, option=orjson.OPT_SORT_KEYS)).hexdigest()[:8]
    return Message(identity.namespace, {**body, "fact_id": f"{record_id}/{name}/{digest}"})


def _observed(change: Change) -> dict[str, str]:
    return {"observed_at": change.observed_at.isoformat()} if change.observed_at else {}
