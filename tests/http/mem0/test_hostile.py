"""Any body and any id at mem0's addresses, without a broker: an answer or a refusal, never a crash."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.served import call
from tests.http.conftest import Running, serve
from workers.http.mem0.bodies import MAX_BODY_BYTES
from workers.kafka.config import KafkaSettings
from workers.runtime.embedded_broker import free_port

WORDS = st.sampled_from(
    ["AND", "OR", "NOT", "user_id", "run_id", "metadata", "created_at", "in", "gte", "contains", "*", "filters", "query", "top_k",
     "fields", "ne", "keywords", "memory_ids", "page", "2026-01-01", "text", "eq"]
) | st.text(max_size=8)  # fmt: skip
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | WORDS,
    lambda nodes: st.lists(nodes, max_size=4) | st.dictionaries(WORDS, nodes, max_size=4),
    max_leaves=12,
)


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    running = serve(KafkaSettings(f"127.0.0.1:{free_port()}"), tmp_path_factory.mktemp("none"))
    yield running
    running.end()


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(["/v3/memories/", "/v3/memories/search/"]), VALUES, VALUES)
def test_any_json_is_answered_or_refused(bare: Running, path: str, body: Any, filters: Any) -> None:
    for sent in (body, {"query": "q", "filters": filters}, {"filters": {"AND": [{"user_id": "a"}, filters]}}):
        status, answer = call(bare, "POST", path, json.dumps(sent).encode())
        searched = (
            path.endswith("search/") and answer.get("reason") == "unavailable"
        )  # by a body that is right
        assert status == 200 or (status == 503 and searched) or (status == 400 and answer["detail"]), (
            sent,
            answer,
        )


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(["/v3/memories/add/", "/v1/batch/", "/v3/memories/"]), st.binary(max_size=200))
def test_any_bytes_are_refused(bare: Running, path: str, body: bytes) -> None:
    method = "PUT" if "batch" in path else "POST"
    assert call(bare, method, path, body)[0] == 400


def test_a_large_body_and_a_strange_id_are_refused(bare: Running) -> None:
    large = b'{"filters": {"user_id": "' + b"x" * MAX_BODY_BYTES + b'"}}'
    assert call(bare, "POST", "/v3/memories/", large)[0] == 413
    for id in ("x", "0" * 31, "g" * 32, "%00", "'%20or%201=1", "0" * 500):
        for method, path in (("GET", ""), ("DELETE", ""), ("GET", "history/")):
            assert call(bare, method, f"/v1/memories/{id}/{path}")[0] == 404
    assert call(bare, "GET", "/v1/ping/")[0] == 200
