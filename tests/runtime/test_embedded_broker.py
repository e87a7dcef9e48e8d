"""The embedded broker: its start, its errors and its stop."""

import random
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import runs, wait_until
from workers.kafka.config import KafkaSettings
from workers.runtime import embedded_broker as broker
from workers.runtime.processes import die_with_parent, stop_process


def test_broker_starts_answers_and_stops(tmp_path: Path) -> None:
    running = broker.start(broker.free_port(), tmp_path / "logs" / "broker.log")
    settings = KafkaSettings(running.bootstrap)
    admin = settings.admin()
    assert admin.list_topics() == []
    admin.close()
    running.stop()
    assert not runs(running.process.pid)
    again = broker.start(running.port, tmp_path / "logs" / "broker.log")  # the port is free at once
    again.stop()
    again.stop()
    assert "ready" in again.log.read_text()


def test_error_for_a_taken_port_names_the_options(embedded: broker.EmbeddedBroker, tmp_path: Path) -> None:
    with pytest.raises(broker.BrokerError, match=rf"--port N.*--bootstrap 127\.0\.0\.1:{embedded.port}"):
        broker.start(embedded.port, tmp_path / "broker.log")


def test_free_ports_in_a_row_are_all_free(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = broker.free_port(row=6) + 2
    tries = iter([taken - 2, taken - 1, taken, taken + 1])
    monkeypatch.setattr(random, "randrange", lambda low, high: next(tries))
    with socket.socket() as other:
        other.bind(("127.0.0.1", taken))
        assert broker.free_port(row=3) == taken + 1
        monkeypatch.setattr(random, "randrange", lambda low, high: taken)
        with pytest.raises(broker.BrokerError, match="no 3 ports"):
            broker.free_port(row=3)


def test_error_for_a_missing_binary_names_the_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALF_TANSU_BIN", str(tmp_path / "nothing"))
    with pytest.raises(broker.BrokerError, match="--bootstrap HOST:PORT"):
        broker.start(broker.free_port(), tmp_path / "broker.log")


def test_error_quotes_a_broker_that_ends_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    binary = tmp_path / "tansu"
    binary.write_text("#!/bin/sh\necho out of luck\nexit 1\n")
    binary.chmod(0o755)
    monkeypatch.setenv("CALF_TANSU_BIN", str(binary))
    with pytest.raises(broker.BrokerError, match="out of luck"):
        broker.start(broker.free_port(), tmp_path / "broker.log")


def test_broker_dies_with_a_killed_parent(tmp_path: Path) -> None:
    if not sys.platform.startswith("linux"):
        assert die_with_parent() is None  # only Linux offers this
        return
    code = (
        "import sys, time; from pathlib import Path; from workers.runtime import embedded_broker as broker;"
        "b = broker.start(broker.free_port(), Path(sys.argv[1]));"
        "print(b.process.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "broker.log")], stdout=subprocess.PIPE
    )
    assert parent.stdout
    pid = int(parent.stdout.readline())
    assert runs(pid)
    parent.kill()
    parent.wait()
    wait_until(lambda: not runs(pid))
    parent.stdout.close()


def test_stop_kills_a_process_that_ignores_sigterm(tmp_path: Path) -> None:
    code = "import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout
    process.stdout.readline()
    stop_process(process, 0.1)
    assert process.returncode == -signal.SIGKILL
    process.stdout.close()
