"""The worker processes of a crash run: forked from one host process that has loaded the model."""

import itertools
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import runs
from tests.faults.plan import Fault
from tests.helpers import forking
from workers.kafka.config import KafkaSettings


@dataclass
class Process(forking.Forked):
    """A worker process."""

    kind: str = ""


def give_order(processes: Sequence[Process], fault: Fault, number: int) -> None:
    """Orders all workers of a kind, since the group decides which of them has partitions. Two may obey."""
    for process in processes:
        process.ask(fault.step, fault.after, number)


class Host:
    """The process that imports everything and loads the model, and the workers that it has forked."""

    def __init__(self, settings: KafkaSettings, folder: Path, model: Path) -> None:
        self.data, self.log = folder / "data", folder / "log"
        self._settings, self._folder, self._numbers = settings, folder, itertools.count()
        self.workers: list[Process] = []
        self._host = forking.Host("tests.faults.crash_worker", model)

    def add(self, kind: str) -> None:
        """Forks a worker of this kind."""
        process = Process(self._folder / f"order-{next(self._numbers)}", kind=kind)
        self.start(process)
        self.workers.append(process)

    def start(self, process: Process) -> None:
        """Forks the worker, or forks it again after it has died."""
        options = {"worker": process.kind, "data": str(self.data), "env": self._settings.env()}
        self._host.fork(process, self.log, options)

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
        self._host.stop()
