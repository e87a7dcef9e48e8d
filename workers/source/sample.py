"""Samples: records of a file instead of a topic, and what they become, for `factstream map`."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import orjson

from workers.source.config import Config
from workers.source.decoding.errors import RegistryDown
from workers.source.record import Mapper, Result


class Sample(NamedTuple):
    """A record as a consumer has it; the topic is None where neither the file nor an option names it."""

    topic: str | None
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]
    partition: int = 0
    offset: int = 0
    timestamp: int = 0


def read(data: bytes, topic: str | None, key: str | None, headers: Iterable[str]) -> list[Sample]:
    """The records in a file: one a line if they are `kcat -J`'s, else one whose value is the whole file, null a tombstone.

    The options stand for what the file does not have. Raises ValueError.
    """
    given = [_header(option) for option in headers]
    lines = [_object(line) for line in data.splitlines() if line.strip()]
    if lines and all(_is_of_kcat(line) for line in lines):
        return [_of_kcat(line, given) for line in lines]
    value = None if data.strip() in (b"", b"null") else data
    return [Sample(topic, key.encode() if key is not None else None, value, given)]


def map_all(config: Config, samples: Iterable[Sample]) -> list[Result]:
    """What each of the records becomes. Raises ValueError for a topic that is not a source, and if the registry is away."""
    topics = [source.topic for source in config.sources]
    mapper = Mapper(config)
    try:
        results = []
        for sample in samples:
            topic = sample.topic or (topics[0] if len(topics) == 1 else None)
            if topic not in topics:
                named = (
                    f"the source {topic} is not configured"
                    if topic
                    else "--topic must say which source it is of"
                )
                raise ValueError(f"{named}: there are {', '.join(topics)}")
            results.append(mapper.map(sample._replace(topic=topic)))
        return results
    except RegistryDown as error:
        raise ValueError(str(error)) from None
    finally:
        mapper.close()


def as_json(result: Result) -> str:
    """A result as one line of JSON: each statement with its verdict, the messages for `facts`, and the dead letter."""
    found = {
        "statements": [
            {"statement": one.statement, "verdict": one.verdict, "reason": one.reason}
            for one in result.mapped
        ],
        "messages": [
            {"key": message.namespace, "value": message.body}
            for one in result.mapped
            for message in one.messages
        ],
        "dead_letter": result.error and {"reason": result.error.reason, "error": str(result.error)},
    }
    return orjson.dumps(found).decode()


def as_text(result: Result) -> str:
    """A result for a person: a line for each statement, below it the messages that it sends."""
    lines = []
    for one in result.mapped:
        lines.append(f"{one.statement}: {one.verdict}{f' ({one.reason})' if one.reason else ''}")
        lines += [f"    {orjson.dumps(message.body).decode()}" for message in one.messages]
    if result.error:
        lines.append(f"dead letter, {result.error.reason}: {result.error}")
    return "\n".join(lines or ["passed over: the record is about no row"])


def _header(option: str) -> tuple[str, bytes | None]:
    name, sign, value = option.partition("=")
    if not (name and sign):
        raise ValueError(f"a header is NAME=VALUE, not {option[:80]!r}")
    return name, value.encode()


def _object(line: bytes) -> dict[str, Any]:
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}


def _is_of_kcat(line: dict[str, Any]) -> bool:
    """Whether an object is a record as kcat writes it, and not a row that has columns of these names."""
    numbers = [line.get("partition"), line.get("offset", 0), line.get("ts", 0)]
    return (
        {"topic", "payload"} <= line.keys()
        and all(isinstance(number, int) for number in numbers)
        and isinstance(line.get("headers") or [], list)
    )


def _of_kcat(line: dict[str, Any], given: list[tuple[str, bytes | None]]) -> Sample:
    flat = line.get("headers") or []  # name, value, name, value
    headers = [(str(name), _bytes(value)) for name, value in zip(flat[::2], flat[1::2], strict=False)]
    return Sample(
        str(line["topic"]), _bytes(line.get("key")), _bytes(line["payload"]), headers + given,
        line["partition"], line.get("offset", 0), line.get("ts", 0),
    )  # fmt: skip


def _bytes(text: Any) -> bytes | None:
    return None if text is None else str(text).encode()
