"""Refusals and failures of the gateway, in OpenAI's error shape."""

import json
from typing import Any

import openai
import pytest

from schemas.common import MAX_MESSAGE_BYTES
from tests.http.conftest import Running, serve
from tests.http.openai.conftest import Gateway
from tests.http.test_server import call
from workers.client import on_loop
from workers.http import app, endpoint
from workers.kafka.config import KafkaSettings
from workers.runtime.embedded_broker import free_port

CHAT, COMPLETION, EMBEDDING = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
USER = [{"role": "user", "content": "Hello"}]


def post(running: Running, path: str, body: object, headers: dict[str, str] | None = None) -> tuple[int, Any]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    status, _, text = call(running, "POST", path, headers, data)
    return status, json.loads(text)


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A gateway without a broker."""
    running = serve(KafkaSettings(f"127.0.0.1:{free_port()}"), tmp_path_factory.mktemp("none"))
    yield running
    running.end()


def chat(**more: Any) -> dict[str, Any]:
    return {"model": "factstream", "messages": USER} | more


def completion(**more: Any) -> dict[str, Any]:
    return {"model": "factstream", "prompt": "Hello"} | more


WRONG: list[tuple[str, Any, int, str]] = [
    (CHAT, b"", 400, "not JSON"),
    (CHAT, b"{", 400, "not JSON"),
    (CHAT, b"[]", 400, "not an object"),
    (CHAT, b"\xff{}", 400, "UTF-8"),
    (CHAT, b'{"model": NaN}', 400, "not JSON"),
    (CHAT, b"[" * 100_000, 400, "not JSON"),
    (CHAT, {"model": "factstream"}, 400, "messages"),
    (CHAT, {"messages": USER}, 400, "model"),
    (CHAT, chat(model="gpt-4o"), 404, "there are factstream and factstream-bare"),
    (CHAT, chat(messages=[]), 400, "messages"),
    (CHAT, chat(messages=[{"role": "tool", "content": "x"}]), 400, "role"),
    (
        CHAT,
        chat(messages=[{"role": "user", "content": [{"type": "image_url"}]}]),
        400,
        "messages.0.content.0.type",
    ),
    (CHAT, chat(messages=[{"role": "user", "content": [{"type": "image_url"}]}]), 400, "not 'image_url'"),
    (
        CHAT,
        chat(messages=[{"role": "user", "content": [{"type": "text", "text": "x"}, "x"]}]),
        400,
        "messages.0.content.1",
    ),
    (
        CHAT,
        chat(messages=[{"role": "user", "content": 7}]),
        400,
        "messages.0.content: expected a text, or a list",
    ),
    (CHAT, chat(messages=[{"role": "user", "content": "x" * 70_000}]), 400, "characters"),
    (CHAT, chat(n=2), 400, "only one answer"),
    (CHAT, chat(tools=[{"type": "function"}]), 400, "tools"),
    (CHAT, chat(functions=[{}]), 400, "tools"),
    (CHAT, chat(response_format={"type": "json_object"}), 400, "response_format"),
    (CHAT, chat(modalities=["audio"]), 400, "text only"),
    (CHAT, chat(audio={"voice": "x"}), 400, "audio"),
    (CHAT, chat(presence_penalty=0.5), 400, "not supported"),
    (CHAT, chat(logit_bias={"1": 5}), 400, "not supported"),
    (CHAT, chat(top_logprobs=2), 400, "needs logprobs"),
    (CHAT, chat(logprobs=True, top_logprobs=21), 400, "top_logprobs"),
    (CHAT, chat(stream_options={"include_usage": True}), 400, "stream"),
    (CHAT, chat(max_tokens=0), 400, "max_tokens"),
    (CHAT, chat(temperature=-1), 400, "temperature"),
    (CHAT, chat(temperature="hot"), 400, "temperature"),
    (CHAT, chat(stop=["a"] * 9), 400, "stop"),
    (CHAT, chat(stop=""), 400, "stop"),
    (CHAT, chat(metadata={"namespace": "a\u0007b"}), 400, "metadata.namespace"),
    (CHAT, chat(metadata={"namespace": 7}), 400, "metadata.namespace"),
    (CHAT, chat(user=""), 400, "user"),
    (CHAT, chat(user="x" * 129), 400, "user"),
    (COMPLETION, completion(prompt=""), 400, "prompt"),
    (COMPLETION, completion(prompt=["a", "b"]), 400, "prompt"),
    (COMPLETION, completion(prompt=[1]), 400, "prompt.0: Input should be a valid string"),
    (COMPLETION, completion(echo=True), 400, "echo"),
    (COMPLETION, completion(best_of=2), 400, "best_of"),
    (COMPLETION, completion(suffix="x"), 400, "suffix"),
    (EMBEDDING, {"model": "factstream", "input": ""}, 400, "input"),
    (EMBEDDING, {"model": "factstream", "input": []}, 400, "input"),
    (EMBEDDING, {"model": "factstream", "input": ["a", 2]}, 400, "input.1: Input should be a valid string"),
    (EMBEDDING, {"model": "factstream", "input": "x" * 70_000}, 400, "input"),
    (EMBEDDING, {"model": "factstream", "input": ["x"] * 2049}, 400, "input"),
    (EMBEDDING, {"model": "factstream", "input": "x", "encoding_format": "hex"}, 400, "encoding_format"),
]


@pytest.mark.parametrize(("path", "body", "status", "words"), WRONG)
def test_what_cannot_be_followed_is_refused(
    bare: Running, path: str, body: Any, status: int, words: str
) -> None:
    got, answer = post(bare, path, body)
    assert set(answer) == {"error"} and set(answer["error"]) == {"message", "type", "param", "code"}
    message = f"{answer['error']['param']} {answer['error']['message']}"
    assert got == status and words in message, answer
    assert answer["error"]["type"] == ("not_found_error" if status == 404 else "invalid_request_error")


def test_addresses_that_are_not_there_and_bodies_that_are_too_large(bare: Running) -> None:
    for method, path, status, code in (
        ("GET", "/v1/no-such", 404, "not_found"),
        ("GET", CHAT, 405, "method_not_allowed"),
        ("DELETE", "/v1/models", 405, "method_not_allowed"),
    ):
        got, _, body = call(bare, method, path)
        assert got == status and json.loads(body)["error"]["code"] == code
    status, answer = post(bare, CHAT, b"x" * (endpoint.MAX_BODY_BYTES + 1))
    assert status == 413 and answer["error"]["code"] == "too-large"
    assert endpoint.MAX_BODY_BYTES > MAX_MESSAGE_BYTES


def test_other_sites_reach_no_api(bare: Running) -> None:
    here = f"http://127.0.0.1:{bare.port}"
    foreign: list[dict[str, str]] = [
        {"Host": "evil.example"}, {"Origin": "http://evil.example"}, {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"}, {"Origin": here, "Sec-Fetch-Site": "same-site"},
    ]  # fmt: skip
    for headers in foreign:
        status, answer = post(bare, CHAT, chat(), headers)
        assert status == 403 and answer["error"]["type"] == "permission_error", headers
        assert call(bare, "GET", "/v1/models", headers)[0] == 403, headers
    for headers in ({}, {"Origin": here}):
        status, given, _ = call(bare, "GET", "/v1/models", headers)
        assert status == 200 and not any(name.startswith("access-control") for name in given)


def test_without_a_broker_the_answer_is_503_at_once(bare: Running) -> None:
    status, answer = post(bare, CHAT, chat())
    assert (
        status == 503
        and answer["error"]["type"] == "server_error"
        and "no broker" in answer["error"]["message"]
    )
    status, answer = post(bare, CHAT, chat(stream=True))
    assert status == 503, "before anything is streamed, a failure is a status"


def test_a_model_that_fails_or_is_silent(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    with gateway.client() as client:
        for stream in (False, True):
            with pytest.raises(openai.InternalServerError, match="no such thing"):
                client.completions.create(model="factstream", prompt="fail", stream=stream)
        with pytest.raises(openai.APIError, match="broken off"):
            list(client.completions.create(model="factstream", prompt="a break b", stream=True))
        gateway.topics.timeout_s = 0.3
        for stream in (False, True):
            with pytest.raises(openai.InternalServerError, match="is a generator running") as silent:
                client.completions.create(model="factstream", prompt="silence", stream=stream)
            assert silent.value.status_code == 503
    assert gateway.topics.running == 0


def test_more_requests_than_may_run_are_told_to_come_again(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_loop, "MAX_RUNNING", 0)
    with gateway.client() as client, pytest.raises(openai.RateLimitError) as refused:
        client.completions.create(model="factstream", prompt="one")
    assert refused.value.response.headers["retry-after"] == "1"


def test_an_unexpected_error_tells_its_sender_nothing(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise LookupError("a secret")

    monkeypatch.setattr(gateway.topics, "stream", broken)
    status, answer = post(gateway.running, COMPLETION, completion())
    assert status == 500 and "secret" not in json.dumps(answer) and answer["error"]["code"] == "internal"


def test_the_first_namespace_that_is_given_counts(gateway: Gateway) -> None:
    def namespace(headers: dict[str, str], **body: Any) -> Any:
        answer = post(gateway.running, COMPLETION, completion(**body), headers)[1]
        memories = answer["factstream"]["memories"]
        assert [memory["namespace"] for memory in memories] == [answer["factstream"]["namespace"]]
        return memories[0]["namespace"]

    header = {"X-Factstream-Namespace": "Zoë Müller".encode().decode("latin-1")}
    assert namespace(header, metadata={"namespace": "a/b@c"}, user="u") == "a/b@c"
    assert namespace(header, user="u", metadata={"other": "x"}) == "Zoë Müller"
    assert namespace({}, user="u") == "u"
    assert namespace({}) == "default"
    not_utf8 = {"X-Factstream-Namespace": "\xff"}
    for headers, body in (
        ({"X-Factstream-Namespace": ""}, {}),
        (not_utf8, {}),
        (header, {"metadata": {"namespace": ""}}),
    ):
        status, answer = post(gateway.running, COMPLETION, completion(user="u", **body), headers)
        assert status == 400 and "namespace" in answer["error"]["message"], "it must not become another's"


def test_an_answer_timeout_is_a_setting_of_the_application() -> None:
    assert app.ANSWER_S < endpoint.REQUEST_S, "the client is told, not cut off"
