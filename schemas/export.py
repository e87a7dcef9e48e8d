"""Export of the messages to other languages: a JSON Schema each, and one AsyncAPI 3 document.

Everything is derived from the models. Run as `python -m schemas.export`. The outputs are committed beside this file, and a
test fails when they have drifted.
"""

from pathlib import Path
from typing import Any

import orjson
import yaml

from schemas import dead_letter, reply, topics
from schemas.changelog import MemoryRecord, PositionRecord
from schemas.common import MEMORY_ID_PATTERN, NAMESPACE_PATTERN, REQUEST_ID_PATTERN, Message
from schemas.encoding import FACT_ENCODINGS
from schemas.fact import Conversation, Fact, Forget, ForgetAll, ForgetKey, Restore
from schemas.files.exported import ExportedMemory
from schemas.hits import MemoryHits
from schemas.request import GenerationRequest
from schemas.response import GenerationResponse, ResponseDelta

DIALECT = "https://json-schema.org/draft/2020-12/schema"

MESSAGES: dict[str, type[Message]] = {
    "fact": Fact,
    "conversation": Conversation,
    "forget": Forget,
    "forget-key": ForgetKey,
    "forget-all": ForgetAll,
    "restore": Restore,
    "memory-record": MemoryRecord,
    "position-record": PositionRecord,
    "memory-hits": MemoryHits,
    "generation-request": GenerationRequest,
    "generation-response": GenerationResponse,
    "response-delta": ResponseDelta,
}
"""Every JSON message by the name of its file."""

LINES: dict[str, type[Message]] = {"exported-memory": ExportedMemory}
"""The lines of JSON Lines files, which are on no topic."""

_NAMESPACE = {"type": "string", "pattern": NAMESPACE_PATTERN}
_REQUEST_ID = {"type": "string", "pattern": REQUEST_ID_PATTERN}
_MEMORY_KEY = {
    "type": "string",
    "pattern": f"{NAMESPACE_PATTERN.removesuffix('$')}/{MEMORY_ID_PATTERN.removeprefix('^')}",
}
_POSITION_KEY = {"type": "string", "pattern": f"{NAMESPACE_PATTERN.removesuffix('$')}/$"}
_BYTES = {"type": "string", "format": "binary"}

_CONTEXT = r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}"
_TRACE = {
    "traceparent": {
        "type": "string",
        "pattern": f"^{_CONTEXT}$",
        "description": "W3C Trace Context; optional.",
    }
}
_TRACES = {
    "traceparents": {
        "type": "string", "pattern": f"^({_CONTEXT})?(,({_CONTEXT})?)*$",
        "description": "The trace context of each row, in order, separated by commas; optional.",
    }
}  # fmt: skip
_ON_FACTS = ("fact", "conversation", "forget", "forget-key", "forget-all", "restore")
_TEXT = {"type": "string"}
_CORRELATION = {
    reply.SPRING_CORRELATION: _BYTES
    | {"description": "Repeated in the response, as are the requester's own headers."},
    reply.CORRELATION: _TEXT | {"description": "Likewise."},
}
_REPLIES = {
    reply.SPRING_TOPIC: _TEXT | {"description": "The topic of the response, one that the generators allow."},
    reply.REPLY_TO: _TEXT | {"description": "Likewise."},
    reply.SPRING_PARTITION: _BYTES
    | {"description": "The partition of the response: four bytes, big-endian."},
}
_ERROR = {reply.ERROR: _TEXT | {"description": "The reason, if the response is an error."}}
_HEADERS: dict[str, dict[str, Any]] = {
    **dict.fromkeys((*_ON_FACTS, "memory-hits"), _TRACE),
    "generation-request": _TRACE | _CORRELATION | _REPLIES,
    "generation-response": _TRACE | _CORRELATION | _ERROR,
    "response-delta": _CORRELATION,
}  # fmt: skip

_CARRIED: dict[str, dict[str, dict[str, Any]]] = {
    topics.FACTS: dict.fromkeys(_ON_FACTS, _NAMESPACE),
    topics.FACT_ENCODINGS: {"fact-encodings": _NAMESPACE},
    topics.MEMORY_CHANGELOG: {
        "memory-record": _MEMORY_KEY,
        "memory-tombstone": _MEMORY_KEY,
        "position-record": _POSITION_KEY,
    },
    topics.MEMORY_HITS: {"memory-hits": _NAMESPACE},
    topics.GENERATION_REQUESTS: {"generation-request": _BYTES},
    topics.GENERATION_RESPONSES: {"generation-response": _REQUEST_ID, "response-delta": _REQUEST_ID},
    topics.DEAD_LETTERS: {"dead-letter": _BYTES},
}
"""The messages of each topic, each with the schema of its Kafka key."""

_SENT = [
    topics.FACT_ENCODINGS,
    topics.MEMORY_CHANGELOG,
    topics.MEMORY_HITS,
    topics.GENERATION_RESPONSES,
    topics.DEAD_LETTERS,
]
_RECEIVED = [
    topics.FACTS,
    topics.FACT_ENCODINGS,
    topics.MEMORY_CHANGELOG,
    topics.MEMORY_HITS,
    topics.GENERATION_REQUESTS,
    topics.DEAD_LETTERS,
]


def json_schema(model: type[Message]) -> dict[str, Any]:
    """The JSON Schema of a message as it is read. Limits in bytes and the contents of texts are checked in code."""
    return {"$schema": DIALECT} | model.model_json_schema()


def asyncapi() -> dict[str, Any]:
    """The AsyncAPI 3 document: the topics as channels, and the operations of factstream's own workers."""
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "factstream",
            "version": "1",
            "description": "A continual-learning layer for frozen language models, as a stream on Kafka. "
            "Addresses are without the topic prefix. Delivery is at least once.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": {topic.name: _channel(topic) for topic in topics.TOPICS},
        "operations": {
            f"{action}-{name}": {
                "action": action,
                "channel": {"$ref": f"#/channels/{name}"},
                "summary": f"factstream {action}s {name}.",
            }
            for action, names in (("receive", _RECEIVED), ("send", _SENT))
            for name in names
        },
        "components": {
            "messages": {
                name: _message(name, key) for carried in _CARRIED.values() for name, key in carried.items()
            }
        },
    }


def _channel(topic: topics.Topic) -> dict[str, Any]:
    carried = _CARRIED[topic.name]
    kafka: dict[str, Any] = {"bindingVersion": "0.5.0"}
    if policy := topic.config.get("cleanup.policy"):
        kafka["topicConfiguration"] = {"cleanup.policy": policy.split(",")}
    return {
        "address": topic.name,
        "description": f"{topic.purpose} Key: {topic.key}.",
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in carried},
        "bindings": {"kafka": kafka},
    }


def _message(name: str, key: dict[str, Any]) -> dict[str, Any]:
    bindings = {"bindings": {"kafka": {"key": key, "bindingVersion": "0.5.0"}}}
    if name in MESSAGES:
        payload = {"$ref": f"./{name}.schema.json"}
        schema = {"schemaFormat": "application/schema+json;version=draft-2020-12", "schema": payload}
        known = _HEADERS.get(name)
        headers = {"headers": {"type": "object", "properties": known}} if known else {}
        return {"name": name, "contentType": "application/json"} | headers | {"payload": schema} | bindings
    if name == "memory-tombstone":
        return {
            "name": name,
            "summary": "No value: the memory of this key was evicted, superseded or forgotten.",
            "payload": {"type": "null"},
        } | bindings
    if name == "fact-encodings":
        columns = "; ".join(f"{f.name}: {f.type}{'' if f.nullable else ' not null'}" for f in FACT_ENCODINGS)
        return {
            "name": name,
            "summary": "An Arrow IPC stream of one record batch, all rows of one namespace.",
            "description": f"Columns: {columns}.",
            "contentType": "application/vnd.apache.arrow.stream",
            "headers": {"type": "object", "properties": _TRACES},
            "payload": _BYTES,
        } | bindings
    return {
        "name": name,
        "summary": "The original value, key and headers; the headers named here say what is wrong.",
        "contentType": "application/octet-stream",
        "headers": {
            "type": "object",
            "required": list(dead_letter.HEADERS),
            "properties": {header: {"type": "string"} for header in dead_letter.HEADERS} | _TRACE,
        },
        "payload": _BYTES,
    } | bindings


def export(folder: Path = Path(__file__).parent) -> list[Path]:
    """Writes every schema and asyncapi.yaml into `folder`, and returns the files. The same models give the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, model in (MESSAGES | LINES).items():
        path = folder / f"{name}.schema.json"
        path.write_bytes(orjson.dumps(json_schema(model), option=orjson.OPT_INDENT_2) + b"\n")
        written.append(path)
    path = folder / "asyncapi.yaml"
    document = orjson.loads(orjson.dumps(asyncapi()))  # as a tree: YAML would print shared parts as anchors
    path.write_text(yaml.safe_dump(document, sort_keys=False, width=110), encoding="utf-8")
    return [*written, path]


if __name__ == "__main__":
    for file in export():
        print(file)
