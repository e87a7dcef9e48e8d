"""The worker processes of a crash run: forked from one host process that has loaded the model."""

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.conftest import runs
from tests.faults.plan import Fault
from workers.kafka.config import KafkaSettings

ROOT = Path(__file__).parent.parent.parent


@dataclass
class Process:
    """A worker process; `order` is the file that tells it to send itself a signal at a step."""

    kind: str
    order: Path
    pid: int = 0

    def state(self) -> str:
        """The kernel's letter: T is stopped; empty for a process that is gone."""
        try:
            return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return ""

    def send(self, number: int) -> None:
        """Sends a signal; does nothing if the process has ended by itself meanwhile."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)


def give_order(processes: Sequence[Process], fault: Fault, number: int) -> None:
    """Orders all workers of a kind, since the group decides which of them has partitions. Two may obey."""
    for process in processes:
        process.order.with_suffix(".new").write_text(json.dumps((fault.step, fault.after, number)))
        process.order.with_suffix(".new").rename(process.order)


class Host:
    """The process that imports everything and loads the model, and the workers that it has forked."""

    def __init__(self, settings: KafkaSettings, folder: Path, model: Path) -> None:
        self.data, self.log = folder / "data", folder / "log"
        self._settings, self._folder, self._numbers = settings, folder, itertools.count()
        self.workers: list[Process] = []
        self._host = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.crash_worker", str(model)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        self._read_line()

    def _read_line(self) -> str:
        assert self._host.stdout is not None
        return self._host.stdout.readline()

    def add(self, kind: str) -> None:
        """Forks a worker of this kind."""
        process = Process(kind, self._folder / f"order-{next(self._numbers)}")
        self.start(process)
        self.workers.append(process)

    def start(self, process: Process) -> None:
        """Forks the worker, or forks it again after it has died."""
        options: dict[str, Any] = {
            "worker": process.kind, "data": str(self.data), "order": str(process.order), "log": str(self.log),
            "env": self._settings.env(),
        }  # fmt: skip
        assert self._host.stdin is not None
        self._host.stdin.write(json.dumps(options) + "\n")
        self._host.stdin.flush()
        process.pid = int(self._read_line())

    def revive(self) -> None:
        """Restarts the processes that have ended, as a supervisor does."""
        for process in self.workers:
            if not runs(process.pid):
                self.start(process)

    def of_kind(self, kind: str) -> list[Process]:
        return [process for process in self.workers if process.kind == kind]

    def signal_all(self, number: int) -> None:
        for process in self.workers:
            process.send(number)

    def alive(self) -> bool:
        return any(runs(process.pid) for process in self.workers)

    def stop(self) -> None:
        self.signal_all(signal.SIGKILL)
        assert self._host.stdin is not None and self._host.stdout is not None
        self._host.stdin.close()
        self._host.wait(30)
        self._host.stdout.close()
