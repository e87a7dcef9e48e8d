"""The metrics' port by itself: its address, its pages, and a worker that stands still."""

import http.client
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from http.server import HTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
from kafka import TopicPartition

from workers.kafka.clients import KafkaSettings
from workers.observe import metrics
from workers.runtime import supervisor as stack
from workers.runtime.embedded_broker import free_port


@pytest.fixture
def server() -> Iterator[HTTPServer]:
    made = metrics.serve("127.0.0.1:" + str(free_port()))
    yield made
    made.shutdown()
    made.server_close()


def get(server: HTTPServer, path: str, method: str = "GET") -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    connection.request(method, path)
    response = connection.getresponse()
    body = response.read()
    connection.close()
    return response.status, body


def test_a_worker_is_well_while_it_starts_and_ready_after_a_turn(
    server: HTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "STATE", metrics.State())
    assert (get(server, "/healthz")[0], get(server, "/readyz")[0]) == (200, 503)
    metrics.turned(ready=True)
    assert (get(server, "/healthz")[0], get(server, "/readyz")[0]) == (200, 200)
    metrics.turned(ready=False)
    assert (get(server, "/healthz")[0], get(server, "/readyz")[0]) == (200, 503)
    metrics.STATE.turned_at, metrics.STATE.ready = time.monotonic() - metrics.STALL_S - 7, True
    code, body = get(server, "/healthz")
    assert code == 503 and body.startswith(b"no turn for 30")
    assert get(server, "/readyz")[0] == 503


def test_pages_are_told_apart_and_nothing_else_is_served(server: HTTPServer) -> None:
    code, body = get(server, "/metrics")
    assert code == 200 and b"factstream_lag_records" in body
    assert get(server, "/metrics", "HEAD") == (200, b"")
    assert get(server, "/../etc/passwd")[0] == get(server, "/")[0] == 404
    assert get(server, "/metrics", "POST")[0] == 501


def test_a_client_that_says_nothing_is_hung_up_on(
    server: HTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics._Pages, "timeout", 0.2)
    monkeypatch.setattr(metrics, "STATE", metrics.State())  # the last turn may be another test's, long ago
    with socket.create_connection(("127.0.0.1", server.server_port)) as silent:
        assert silent.recv(1) == b""
    assert get(server, "/healthz")[0] == 200


@pytest.mark.parametrize(
    "text, expected",
    [("9464", ("127.0.0.1", 9464)), ("0.0.0.0:9464", ("0.0.0.0", 9464))],
)
def test_an_address_is_a_port_or_a_host_and_a_port(text: str, expected: tuple[str, int]) -> None:
    assert metrics.address(text) == expected


@pytest.mark.parametrize("text", ["", "x", "0", "65536", "host:", "1.5", "-1"])
def test_another_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="--metrics-port is PORT or HOST:PORT"):
        metrics.address(text)


def test_a_port_that_is_taken_is_one_clear_line(server: HTTPServer) -> None:
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


def test_the_workers_of_a_stack_have_ports_in_a_row() -> None:
    commands = stack.worker_commands(KafkaSettings(), Path("d"), "default", "text", "0.0.0.0:9464")
    assert [c[c.index("--metrics-port") + 1] for c in commands.values()] == [
        "0.0.0.0:9464", "0.0.0.0:9465", "0.0.0.0:9466"
    ]  # fmt: skip
    plain = stack.worker_commands(KafkaSettings(), Path("d"), "default", "text")
    assert not any("--metrics-port" in command for command in plain.values())


def test_lag_forgets_partitions_that_are_no_longer_owned() -> None:
    class Consumer:
        def __init__(self, *owned: int) -> None:
            self.owned = owned

        def assignment(self) -> set[object]:
            return {TopicPartition("t.facts", p) for p in self.owned}

        def highwater(self, tp: object) -> int:
            return 10

        def position(self, tp: object, timeout_ms: int) -> int | None:
            return 4

    def shown() -> dict[str, float]:
        (family,) = metrics.LAG.collect()
        return {s.labels["partition"]: s.value for s in family.samples if s.labels["topic"] == "facts"}

    metrics.lag("encoder", Consumer(0, 1), "t.")
    assert shown() == {"0": 6, "1": 6}
    hand = {TopicPartition("t.facts", 1): [SimpleNamespace(offset=1), SimpleNamespace(offset=3)]}
    metrics.in_hand("encoder", Consumer(0, 1), "t.", hand)  # they are read, and not done
    assert shown() == {"0": 6, "1": 9}
    metrics.lag("encoder", Consumer(1), "t.")
    assert shown() == {"1": 6}
