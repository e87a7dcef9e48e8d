"""Streams that end without their answer: the client leaves, is slow, or the server stops."""

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.client.answerer import answering
from tests.conftest import wait_until
from tests.http.fake_model import repeat
from tests.http.openai.conftest import Gateway
from tests.http.openai.test_errors import COMPLETION, completion, post
from workers.client.asking import Client
from workers.http import endpoint
from workers.http.openai import streaming
from workers.kafka.config import KafkaSettings


def begin(port: int, prompt: str, stream: bool = True) -> http.client.HTTPConnection:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("POST", COMPLETION, json.dumps(completion(prompt=prompt, stream=stream)))
    return connection


def waiting(gateway: Gateway) -> int:
    """Requests that the connection to the topics keeps."""
    connected = gateway.topics._client
    return len(connected._waiting) if connected else 0


def test_a_client_that_leaves_frees_its_request(gateway: Gateway) -> None:
    """The answer would be waited for for two minutes otherwise."""
    streams = [begin(gateway.running.port, "one pause") for _ in range(3)]
    responses = [stream.getresponse() for stream in streams]
    assert all(response.read(20).startswith(b"data: ") for response in responses)
    whole = begin(gateway.running.port, "silence", stream=False)
    wait_until(lambda: gateway.topics.running == 4 and waiting(gateway) == 4)
    for response in responses:
        response.close()
    for connection in (*streams, whole):
        connection.close()
    wait_until(lambda: gateway.topics.running == 0 and waiting(gateway) == 0, limit_s=10)
    assert post(gateway.running, COMPLETION, completion(prompt="still here"))[0] == 200


def test_a_silent_stream_is_kept_alive_by_comments(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "PING_S", 0.05)
    stream = begin(gateway.running.port, "one pause")
    lines = stream.getresponse()
    assert [line for line in (lines.readline() for _ in range(8)) if line.startswith(b": waiting")]
    stream.close()


def test_a_request_has_an_end(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "REQUEST_S", 0.3)
    status, answer = post(gateway.running, COMPLETION, completion(prompt="silence"))
    assert status == 503 and answer["error"]["code"] == "timeout"
    monkeypatch.setattr(endpoint, "REQUEST_S", 5.0)  # the first piece comes in less, however much else runs
    stream = begin(gateway.running.port, "one pause").getresponse()
    with pytest.raises(http.client.IncompleteRead):
        stream.read()
    wait_until(lambda: gateway.topics.running == 0)


def test_a_body_that_does_not_arrive_is_refused(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "BODY_S", 0.2)
    connection = http.client.HTTPConnection("127.0.0.1", gateway.running.port, timeout=30)
    connection.putrequest("POST", COMPLETION)
    connection.putheader("Content-Length", "100")
    connection.endheaders(b"{")
    response = connection.getresponse()
    assert response.status == 408 and json.loads(response.read())["error"]["code"] == "timeout"
    assert response.getheader("connection") == "close"
    connection.close()


def test_one_connection_serves_all_requests_and_is_made_anew(gateway: Gateway) -> None:
    assert post(gateway.running, COMPLETION, completion())[0] == 200
    first = gateway.topics._client
    assert post(gateway.running, COMPLETION, completion())[0] == 200 and gateway.topics._client is first
    assert isinstance(first, Client)
    first.close()
    assert post(gateway.running, COMPLETION, completion())[0] == 200 and gateway.topics._client is not first


def test_the_server_stops_while_a_stream_runs(settings: KafkaSettings, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "workers.cli", "serve", "--data", str(tmp_path), "--port", "0"]
    command += ["--bootstrap", settings.bootstrap, "--topic-prefix", settings.topic_prefix]
    env = {k: v for k, v in os.environ.items() if not k.startswith("FACTSTREAM_")}
    with answering(settings, repeat):
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env
        )
        assert process.stdout is not None
        port = int(process.stdout.readline().rstrip("/\n").rpartition(":")[2])
        stream = begin(port, "one pause").getresponse()
        assert stream.readline().startswith(b"data: ")
        threading.Timer(0.1, process.send_signal, [signal.SIGTERM]).start()
        started = time.monotonic()
        rest = stream.read()
        _, errors = process.communicate(timeout=60)
    assert b"closed by its owner" in rest and rest.endswith(b"data: [DONE]\n\n")
    assert process.returncode == 0 and "Traceback" not in errors, errors
    assert time.monotonic() - started < 30, "a stream does not keep it from stopping"
