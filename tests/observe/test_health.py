"""The port of health and metrics: its address, its pages, and a worker whose loop stands still."""

import http.client
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from wsgiref.simple_server import WSGIServer

import pytest

from workers.kafka.config import KafkaSettings
from workers.observe import health as module
from workers.observe.health import STALL_S, Health, address, serve
from workers.runtime.embedded_broker import free_port
from workers.runtime.supervisor import worker_commands


@pytest.fixture
def health() -> Health:
    return Health()


@pytest.fixture
def server(health: Health) -> Iterator[WSGIServer]:
    made = serve("127.0.0.1:" + str(free_port()), health)
    yield made
    made.shutdown()
    made.server_close()


def request(server: WSGIServer, path: str, method: str = "GET") -> tuple[int, bytes, http.client.HTTPMessage]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    connection.request(method, path)
    response = connection.getresponse()
    body = response.read()
    connection.close()
    return response.status, body, response.headers


def test_worker_is_healthy_while_it_starts_and_ready_after_a_turn(server: WSGIServer, health: Health) -> None:
    def pages() -> list[tuple[int, bytes]]:
        return [request(server, path)[:2] for path in ("/healthz", "/readyz")]

    assert pages() == [(200, b"ok\n"), (503, b"not ready\n")]
    health.turned(ready=True)
    assert pages() == [(200, b"ok\n"), (200, b"ready\n")]
    health.turned(ready=False)
    assert pages() == [(200, b"ok\n"), (503, b"not ready\n")]
    health.turned_at, health.ready = time.monotonic() - STALL_S - 7, True
    (code, body), (ready_code, _) = pages()
    assert code == ready_code == 503 and body.startswith(b"no turn for 30")


def test_metrics_are_served_and_other_paths_are_not(server: WSGIServer) -> None:
    code, body, headers = request(server, "/metrics")
    assert (
        code == 200
        and b"# HELP factstream_" in body
        and headers["Content-Type"].startswith("text/plain; version=")
    )
    code, body, headers = request(server, "/healthz", "HEAD")
    assert (code, body, headers["Content-Length"]) == (200, b"", "3")
    for path in ("/../etc/passwd", "/", "/favicon.ico"):
        assert request(server, path)[:2] == (404, b"/metrics, /healthz or /readyz\n")
    assert request(server, "/metrics", "POST")[0] == request(server, "/healthz", "POST")[0] == 405


def test_silent_client_is_disconnected(
    server: WSGIServer, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module._Handler, "timeout", 0.2)
    with socket.create_connection(("127.0.0.1", server.server_port)) as silent:
        assert silent.recv(1) == b""
    with socket.create_connection(("127.0.0.1", server.server_port)) as rude:
        rude.sendall(b"\xff\x00 nonsense\r\n\r\n")
    assert request(server, "/healthz")[0] == 200
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    "text, expected",
    [("9464", ("127.0.0.1", 9464)), ("0.0.0.0:9464", ("0.0.0.0", 9464))],
)
def test_address_is_a_port_or_a_host_and_a_port(text: str, expected: tuple[str, int]) -> None:
    assert address(text) == expected


@pytest.mark.parametrize("text", ["", "x", "0", "65536", "host:", "1.5", "-1"])
def test_other_addresses_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="--metrics-port must be PORT or HOST:PORT"):
        address(text)


def test_error_for_a_taken_port_is_one_line(server: WSGIServer) -> None:
    command = [
        sys.executable,
        "-m",
        "workers.cli",
        "worker",
        "writer",
        "--metrics-port",
        str(server.server_port),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.startswith(
        f"error: --metrics-port 127.0.0.1:{server.server_port}: Address already in use"
    )


def test_workers_of_a_stack_have_consecutive_metrics_ports() -> None:
    commands = worker_commands(KafkaSettings(), Path("d"), "default", "text", "0.0.0.0:9464")
    assert [c[c.index("--metrics-port") + 1] for c in commands.values()] == [
        "0.0.0.0:9464", "0.0.0.0:9465", "0.0.0.0:9466"
    ]  # fmt: skip
    plain = worker_commands(KafkaSettings(), Path("d"), "default", "text")
    assert not any("--metrics-port" in command for command in plain.values())
