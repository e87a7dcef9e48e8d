"""Messages: valid ones are decoded, others refused with a reason, and the exported schemas agree."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from schemas import export, topics
from schemas.changelog import Decided, MemoryRecord, PositionRecord
from schemas.common import MAX_TEXT_BYTES, BadMessage, Message, decode, encode
from schemas.fact import Conversation, Fact, Forget, ForgetAll, ForgetKey, Restore, Turn, decode_fact
from schemas.hits import Hit, MemoryHits
from schemas.request import ChatMessage, GenerationRequest, decode_request
from schemas.response import GenerationResponse, ResponseDelta, ResponseError, Timings, Usage, UsedMemory

FOLDER = Path(export.__file__).parent
TIME = datetime(2026, 3, 1, 12, tzinfo=UTC)
ID = "0123456789abcdef" * 2

# --- exported schemas ---


def test_committed_schemas_are_those_of_the_models(tmp_path: Path) -> None:
    written = {path.name: path.read_bytes() for path in export.export(tmp_path)}
    committed = {
        path.name: path.read_bytes() for path in FOLDER.iterdir() if path.suffix in (".json", ".yaml")
    }
    assert committed == written, "run python -m schemas.export and commit what it writes"


@pytest.mark.parametrize("name", export.MESSAGES)
def test_each_schema_is_json_schema_2020_12(name: str) -> None:
    schema = json.loads((FOLDER / f"{name}.schema.json").read_bytes())
    assert schema["$schema"] == export.DIALECT and schema["title"] and schema["description"]
    assert "$id" not in schema
    Draft202012Validator.check_schema(schema)
    known = set(Draft202012Validator.META_SCHEMA["properties"]) | set().union(
        *(vocabulary(part) for part in ("core", "applicator", "validation", "meta-data", "format", "content"))
    )
    unknown = {key for part in subschemas(schema) for key in part} - known
    assert not unknown, "a keyword that JSON Schema does not have checks nothing"


def vocabulary(part: str) -> set[str]:
    """The keywords of a part of JSON Schema 2020-12."""
    from jsonschema_specifications import REGISTRY  # type: ignore[import-untyped]

    name = {"format": "format-annotation"}.get(part, part)
    return set(REGISTRY.contents(f"https://json-schema.org/draft/2020-12/meta/{name}")["properties"])


def subschemas(schema: Any) -> list[dict[str, Any]]:
    found = [schema] if isinstance(schema, dict) else []
    for key, value in schema.items() if isinstance(schema, dict) else ():
        if key in ("properties", "$defs", "patternProperties"):
            found += [deeper for one in value.values() for deeper in subschemas(one)]
        elif key in ("anyOf", "oneOf"):
            found += [deeper for one in value for deeper in subschemas(one)]
        elif key in ("items", "additionalProperties", "propertyNames"):
            found += subschemas(value)
    return found


def test_asyncapi_describes_every_topic_and_every_reference_resolves() -> None:
    document = yaml.safe_load((FOLDER / "asyncapi.yaml").read_text())
    assert document["asyncapi"] == "3.0.0" and {"title", "version"} <= set(document["info"])
    assert {c["address"] for c in document["channels"].values()} == {t.name for t in topics.TOPICS}
    assert all(channel["messages"] for channel in document["channels"].values())
    for operation in document["operations"].values():
        assert operation["action"] in ("send", "receive")
        assert resolved(operation["channel"]["$ref"], document)["address"] in document["channels"]
    assert all("payload" in message for message in document["components"]["messages"].values())
    references = list(refs(document))
    assert references and all(resolved(ref, document) for ref in references)
    files = {ref for ref in references if ref.startswith("./")}
    assert files == {f"./{name}.schema.json" for name in export.MESSAGES}


def refs(node: Any) -> list[str]:
    if isinstance(node, list):
        return [ref for item in node for ref in refs(item)]
    if not isinstance(node, dict):
        return []
    return [node["$ref"]] if "$ref" in node else [ref for item in node.values() for ref in refs(item)]


def resolved(ref: str, document: Any) -> Any:
    file, _, pointer = ref.partition("#")
    node = json.loads((FOLDER / file).read_bytes()) if file else document
    for part in pointer.split("/")[1:]:
        node = node[part]
    return node


# --- the models and the schemas agree ---

EXAMPLES: list[tuple[str, dict[str, Any], bool]] = [
    ("fact", {"text": "Paris is the capital of France."}, True),
    ("fact", {"text": "é", "category": "c", "namespace": "a.b-c_1", "min_loss_delta": 0}, True),
    ("fact", {"text": "a", "observed_at": "2026-03-01T12:00:00+02:00", "category": None}, True),
    ("fact", {}, False),
    ("fact", {"text": ""}, False),
    ("fact", {"text": " \n\t"}, False),
    ("fact", {"text": 7}, False),
    ("fact", {"text": "a" * (MAX_TEXT_BYTES + 1)}, False),
    ("fact", {"text": "a", "color": "red"}, False),
    ("fact", {"text": "a", "namespace": "Ada@acme.com/sales 1"}, True),
    ("fact", {"text": "a", "namespace": "a" * 128}, True),
    ("fact", {"text": "a", "namespace": "a" * 129}, False),
    ("fact", {"text": "a", "namespace": "a\tb"}, False),
    ("fact", {"text": "a", "namespace": ""}, False),
    ("fact", {"text": "a", "key": "product:h-1:price", "cardinality": "many", "fact_id": 17}, True),
    ("fact", {"text": "a", "key": ""}, False),
    ("fact", {"text": "a", "key": "k" * 257}, False),
    ("fact", {"text": "a", "cardinality": "two"}, False),
    ("fact", {"text": "a", "metadata": {"page": 3, "tags": ["x", {"y": None}]}}, True),
    ("fact", {"text": "a", "metadata": ["page"]}, False),
    ("fact", {"text": "a", "fact_id": 1.5}, False),
    ("fact", {"text": "a", "fact_id": True}, False),
    ("fact", {"text": "a", "observed_at": 1772366400000, "valid_until": -1772366400000}, True),
    ("fact", {"text": "a", "observed_at": 1772366400000.5}, False),
    ("fact", {"text": "a", "min_loss_delta": "0.5"}, False),
    ("fact", {"text": "a", "min_loss_delta": True}, False),
    ("fact", {"text": "a", "source": "s" * 257}, False),
    ("fact", {"text": "a", "observed_at": 1700000000}, False),
    ("conversation", {"messages": [{"role": "user", "content": "I moved.", "name": "Ana"}]}, True),
    ("conversation", {"messages": [{"role": "user", "timestamp": "2026-03-01T20:00:00-08:00"}]}, True),
    ("conversation", {"messages": []}, False),
    ("conversation", {"messages": [{"role": "bot", "content": "a"}]}, False),
    ("conversation", {"messages": [{"role": "user", "content": "a", "name": " "}]}, False),
    ("conversation", {"messages": [{"role": "user", "content": "a"}], "text": "b"}, False),
    ("conversation", {"messages": [{"role": "user", "content": "a"}] * 257}, False),
    ("forget", {"forget": ID}, True),
    ("forget", {"forget": ID.upper()}, False),
    ("forget", {"forget": ID, "text": "a"}, False),
    ("forget-key", {"forget_key": "k", "observed_at": "2026-03-01T00:00:00Z"}, True),
    ("forget-key", {"forget_key": "k", "erase": True, "observed_at": "2026-03-01T00:00:00Z"}, False),
    ("forget-all", {"forget_all": True, "erase": True}, True),
    ("forget-key", {"forget_key": ""}, False),
    ("forget-all", {"forget_all": True}, True),
    ("forget-all", {"forget_all": False}, False),
    ("restore", {"restore": ID, "namespace": "n"}, True),
    ("restore", {"restore": ID, "erase": True}, False),
    ("generation-request", {"prompt": "Paris is"}, True),
    ("generation-request", {"messages": [{"role": "user", "content": "Hi"}], "namespace": ["a", "b"]}, True),
    ("generation-request", {"prompt": "a", "after": {"default": {"t/0": 4}}}, True),
    ("generation-request", {"prompt": "a", "stop_at_answer": False}, True),
    ("generation-request", {"prompt": "a", "stop_at_answer": "no"}, False),
    ("generation-request", {}, False),
    ("generation-request", {"prompt": "a", "messages": [{"role": "user", "content": "b"}]}, False),
    ("generation-request", {"messages": []}, False),
    ("generation-request", {"prompt": "a", "task": "retrieve", "limit": 100}, True),
    ("generation-request", {"prompt": "a", "task": "retrieve", "limit": 101}, False),
    ("generation-request", {"prompts": ["a", "b"], "task": "embed"}, True),
    ("generation-request", {"prompts": ["a"] * 257, "task": "embed"}, False),
    ("generation-request", {"prompts": ["a"], "prompt": "a", "task": "embed"}, False),
    ("generation-request", {"prompts": ["a", "b"]}, False),
    ("generation-request", {"prompt": "a", "task": "erase"}, False),
    ("generation-request", {"prompt": "a", "logprobs": 20}, True),
    ("generation-request", {"prompt": "a", "logprobs": 21}, False),
    ("generation-request", {"messages": [{"role": "robot", "content": "b"}]}, False),
    ("generation-request", {"prompt": "a", "namespace": []}, False),
    ("generation-request", {"prompt": "a", "temperature": -1}, False),
    ("generation-request", {"prompt": "a", "top_p": 0}, False),
    ("generation-request", {"prompt": "a", "max_new_tokens": 0}, False),
    ("generation-request", {"prompt": "a", "max_new_tokens": 1.5}, False),
    ("generation-request", {"prompt": "a", "stop": [""]}, False),
    ("memory-hits", {"namespace": "a", "request_id": "r", "answered_at": "2026-03-01", "hits": []}, False),
    ("position-record", {"namespace": "a", "positions": {"t/0": -1}}, False),
    ("response-delta", {"request_id": "r", "index": -1, "delta": "a"}, False),
    ("generation-response", {"request_id": "r", "finish_reason": "bored"}, False),
]


@pytest.mark.parametrize("name, body, good", EXAMPLES)
def test_model_and_schema_accept_and_refuse_the_same(name: str, body: dict[str, Any], good: bool) -> None:
    schema = json.loads((FOLDER / f"{name}.schema.json").read_bytes())
    assert Draft202012Validator(schema).is_valid(body) is good
    value = json.dumps(body).encode()
    if good:
        decode(export.MESSAGES[name], value)
    else:
        with pytest.raises(BadMessage):
            decode(export.MESSAGES[name], value)


MEMORY = MemoryRecord(
    memory_id=ID, namespace="default", text="Torben Betts is from Munich.", observed_at=TIME, learned_at=TIME,
    importance=-0.5, key="k", metadata={"page": 3}, valid_until=TIME, uses=2, loss_delta=1.25, encoder_id="e", priors=b"\x00\xff", surprisals=b"", vectors=b"\x80",
)  # fmt: skip
MESSAGES: list[Message] = [
    Fact(text="a", category="c", namespace="n", fact_id="7", source="s", observed_at=TIME, min_loss_delta=0.0),
    Fact(text="a", key="k", cardinality="many", metadata={"b": [1, None], "a": {"c": 2.5}}, valid_until=TIME),
    Conversation(messages=[Turn(role="user", name="Ana", content="I moved.", timestamp=TIME)], timestamp=TIME, fact_id="7"),
    Forget(forget=ID, namespace="n"),
    ForgetKey(forget_key="k", observed_at=TIME),
    ForgetAll(forget_all=True, erase=True),
    Restore(restore=ID),
    MEMORY,
    PositionRecord(
        namespace="n",
        positions={"topic/0": 2**63 - 1},
        decided=[Decided(topic_id="topic", partition=0, offset=3, outcome="learned", memory_id=ID, loss_delta=1.0)],
    ),
    MemoryHits(namespace="n", request_id="r", answered_at=TIME, hits=[Hit(memory_id=ID, gate=1.0)]),
    GenerationRequest(
        messages=[ChatMessage(role="user", content="Hi")], namespace=["a", "b"], stop=["."], deadline=TIME,
        after={"a": {"topic/0": 3}}, stop_at_answer=False,
    ),
    GenerationResponse(
        request_id="r", text="Munich", finish_reason="stop",
        memories=[
            UsedMemory(memory_id=ID, namespace="n", text="a", category="c", score=2.0, gate=0.5, metadata={"page": 3}),
            UsedMemory(memory_id="f" * 32, namespace="n", text="b", score=2.0, gate=0.0, doubted_by=ID),
        ],
        usage=Usage(prompt_tokens=3, completion_tokens=1),
        timings=Timings(queued_ms=1.0, generate_ms=3.0),
    ),
    GenerationResponse(request_id="r", finish_reason="error", error=ResponseError(reason="deadline", message="late")),
    ResponseDelta(request_id="r", index=0, delta=" Mun"),
]  # fmt: skip


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_each_message_is_decoded_as_it_was_encoded(message: Message) -> None:
    value = encode(message)
    assert decode(type(message), value) == message
    (name,) = (name for name, model in export.MESSAGES.items() if model is type(message))
    Draft202012Validator(json.loads((FOLDER / f"{name}.schema.json").read_bytes())).validate(
        json.loads(value)
    )


def test_every_exported_message_has_a_round_trip_above() -> None:
    assert {type(message) for message in MESSAGES} == set(export.MESSAGES.values())


# --- requests ---


@given(st.none() | st.binary(max_size=40), st.binary(max_size=200))
def test_random_bytes_raise_only_bad_message(key: bytes | None, value: bytes) -> None:
    with pytest.raises(BadMessage):
        decode_fact(key, value)
    with pytest.raises(BadMessage):
        decode_request(value)
