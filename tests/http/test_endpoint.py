"""What every API gets from its endpoint, MCP included: limits, counts and traces."""

import http.client
import json
import socket
import time
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY

from schemas import topics
from tests.client.answerer import answering
from tests.conftest import wait_until
from tests.helpers.served import call
from tests.http.conftest import Running, serve
from tests.http.fake_model import repeat
from workers.client.tail import Tail
from workers.generate.inflight import Pending
from workers.generate.responses import Responder
from workers.http import endpoint
from workers.kafka.admin import ensure_topics
from workers.kafka.config import KafkaSettings
from workers.runtime.embedded_broker import free_port

ACCEPT = {"accept": "application/json, text/event-stream"}
TRACE = "0af7651916cd43dd8448eb211c80319c"
TRACED = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}


def tool(name: str, **arguments: object) -> dict[str, object]:
    params = {"name": name, "arguments": arguments}
    return {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """On an empty folder, and no broker."""
    running = serve(KafkaSettings(f"127.0.0.1:{free_port()}"), tmp_path_factory.mktemp("none"))
    yield running
    running.end()


@pytest.fixture
def server(settings: KafkaSettings, tmp_path: Path) -> Iterator[Running]:
    ensure_topics(settings)
    running = serve(settings, tmp_path)
    yield running
    running.end()


def counted(route: str, status: int) -> float:
    labels = {"route": route, "status": str(status)}
    return REGISTRY.get_sample_value("factstream_http_requests_total", labels) or 0.0


def test_a_request_of_mcp_is_counted_and_timed_by_its_route(bare: Running) -> None:
    before = counted("/mcp", 200)
    status, answer = call(bare, "POST", "/mcp", {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}, **ACCEPT)
    assert status == 200 and len(answer["result"]["tools"]) == 8
    wait_until(lambda: counted("/mcp", 200) == before + 1)
    assert REGISTRY.get_sample_value("factstream_http_seconds_count", {"route": "/mcp"})


def test_mcp_has_the_limits_of_the_other_apis(bare: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    status, answer = call(bare, "POST", "/mcp", b"x" * (endpoint.MAX_BODY_BYTES + 1), **ACCEPT)
    assert (status, answer["error"]["data"]["reason"]) == (413, "too-large") and answer["jsonrpc"] == "2.0"
    assert call(bare, "GET", "/mcp", **ACCEPT)[0] == call(bare, "DELETE", "/mcp", **ACCEPT)[0] == 405
    monkeypatch.setattr(endpoint, "BODY_S", 0.2)
    with socket.create_connection(("127.0.0.1", bare.port)) as slow:
        slow.sendall(
            f"POST /mcp HTTP/1.1\r\nHost: 127.0.0.1:{bare.port}\r\nContent-Length: 9\r\n\r\n{{".encode()
        )
        assert slow.recv(100).startswith(b"HTTP/1.1 408")


def test_a_tool_whose_client_leaves_is_given_up(settings: KafkaSettings, server: Running) -> None:
    """It would wait for an answer for two minutes otherwise."""
    body = json.dumps(tool("ask", question="silence")).encode()
    head = "POST /mcp HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nAccept: application/json, text/event-stream\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    running = REGISTRY.get_sample_value
    with answering(settings, repeat) as asked:
        with socket.create_connection(("127.0.0.1", server.port)) as client:
            client.sendall(head.format(server.port).encode() + body)
            wait_until(lambda: asked)
            assert running("factstream_http_running") == 1
        began = time.monotonic()
        wait_until(lambda: running("factstream_http_running") == 0, limit_s=20)
    assert time.monotonic() - began < 20


def test_what_a_request_sends_to_the_topics_is_in_its_trace(settings: KafkaSettings, server: Running) -> None:
    seen: list[Any] = []

    def answer(responder: Responder, p: Pending) -> None:
        seen.append(p.record)
        repeat(responder, p)

    facts = Tail(settings, (topics.FACTS,))
    with answering(settings, answer):
        said = {"model": "factstream", "prompt": "The lamp is made of walnut.", "learn": True}
        memory = {"messages": [{"role": "user", "content": "I moved to Porto."}], "user_id": "ana"}
        for path, body in (
            ("/v1/completions", said),
            ("/v1/completions", said | {"stream": True, "learn": False}),
            ("/mcp", tool("ask", question="What is the lamp made of?")),
            ("/v1/embeddings", {"model": "factstream", "input": "lamp"}),
        ):
            status, _ = call_raw(server, path, body)
            assert status == 200
        with socket.create_connection(("127.0.0.1", server.port)) as client:  # nobody decides it here
            sent = json.dumps(memory)
            client.sendall(
                f"POST /v3/memories/add/ HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nTraceparent: {TRACED['traceparent']}\r\n"
                f"Content-Length: {len(sent)}\r\n\r\n{sent}".encode()
            )
            published = list(islice(chain.from_iterable(facts.poll() for _ in range(1000)), 2))
    facts.close()
    assert len(seen) == 4
    for record in (*seen, *published):
        assert f"-{TRACE}-" in dict(record.headers).get("traceparent", b"").decode(), record.value


def call_raw(server: Running, path: str, body: object) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    headers = {"content-type": "application/json", **ACCEPT, **TRACED}
    connection.request("POST", path, json.dumps(body), headers)
    response = connection.getresponse()
    found = response.status, response.read()
    connection.close()
    return found
