"""Signals at any moment: every process ends within its time limit."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.conftest import runs, wait_until
from workers.kafka.config import KafkaSettings
from workers.runtime import embedded_broker as broker
from workers.runtime.signals import Stop, stopped_by_signals

WORKER_BOUND_S = 30.0
UP_BOUND_S = 45.0
"""The drain, the workers and the broker have 21 s; the rest is for a busy machine."""

INTERRUPTED = """
import signal
from workers.runtime.signals import Stop
stop = Stop()
signal.signal(signal.SIGALRM, lambda *_: stop.set())
signal.setitimer(signal.ITIMER_REAL, 0.0001, 0.00013)
for _ in range(2000):
    stop = Stop()
    while not stop.wait(0.00001):
        pass
signal.setitimer(signal.ITIMER_REAL, 0)
print("done")
"""


def test_signal_during_wait_or_set_does_not_block() -> None:
    """With a `threading.Event` in the place of `Stop` this hangs after some hundred rounds."""
    ended = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, timeout=60)
    assert ended.stdout == "done\n", ended.stderr


def test_second_signal_makes_the_stop_urgent() -> None:
    stop, before = Stop(), signal.getsignal(signal.SIGTERM)
    with stopped_by_signals(stop):
        assert not stop.wait(0.01) and not stop.is_urgent()
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.wait(10) and not stop.is_urgent()
        os.kill(os.getpid(), signal.SIGINT)
        wait_until(stop.is_urgent)
    assert signal.getsignal(signal.SIGTERM) is before


def test_wait_ends_when_another_thread_sets_the_flag() -> None:
    stop, begun = Stop(), time.monotonic()
    threading.Timer(0.1, stop.set).start()
    assert stop.wait(60) and time.monotonic() - begun < 30


def shower(process: subprocess.Popen[str], dice: random.Random, count: int, longest_s: float) -> None:
    """Signals at random moments, until there are `count` or the process has ended."""
    for _ in range(count):
        if process.poll() is not None:
            return
        process.send_signal(dice.choice((signal.SIGINT, signal.SIGTERM)))
        if dice.random() < 0.5:
            time.sleep(dice.random() * longest_s)


def ends(process: subprocess.Popen[str], bound_s: float) -> None:
    try:
        process.communicate(timeout=bound_s)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGABRT)
        process.wait()
        pytest.fail(f"{process.args!r} did not end in {bound_s} s")


@pytest.mark.parametrize("seed", range(4))
def test_worker_ends_under_hundreds_of_signals(settings: KafkaSettings, tmp_path: Path, seed: int) -> None:
    dice = random.Random(seed)
    command = [sys.executable, "-m", "workers.cli", "worker", "writer", "--data", str(tmp_path)]
    output = (tmp_path / "log").open("w")
    process = subprocess.Popen(command, env=os.environ | settings.env(), stderr=output, text=True)
    if seed:  # else while it starts
        wait_until(lambda: "ready" in (tmp_path / "log").read_text() or process.poll() is not None)
    time.sleep(dice.random())
    shower(process, dice, 300, 0.001)
    ends(process, WORKER_BOUND_S)


def test_worker_ends_while_its_broker_is_away(tmp_path: Path) -> None:
    running = broker.start(broker.free_port(), tmp_path / "broker.log")
    settings = KafkaSettings(running.bootstrap, session_timeout_ms=1500)
    log = tmp_path / "log"
    command = [sys.executable, "-m", "workers.cli", "worker", "writer", "--data", str(tmp_path)]
    process = subprocess.Popen(command, env=os.environ | settings.env(), stderr=log.open("w"), text=True)
    try:
        wait_until(lambda: "ready" in log.read_text())
    finally:
        running.stop()
    wait_until(lambda: "retry" in log.read_text(), 60)
    shower(process, random.Random(7), 300, 0.001)
    ends(process, WORKER_BOUND_S)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_up_ends_under_hundreds_of_signals(gpt2: Path, tmp_path: Path, seed: int) -> None:
    dice = random.Random(seed)
    command = [sys.executable, "-m", "workers.cli", "up", "--data", str(tmp_path), "--model", str(gpt2)]
    command += ["--port", str(broker.free_port()), "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    pids: list[int] = []
    if seed:  # else while it starts
        pids = list(json.loads(process.stdout.readline())["pids"].values())
    else:
        wait_until(lambda: (tmp_path / "logs" / "broker.log").exists())
    time.sleep(dice.random())
    shower(process, dice, 300, 0.001)
    ends(process, UP_BOUND_S)
    wait_until(lambda: not any(runs(pid) for pid in pids))
