"""Processes that are forked from a host, so that one that was killed is back at once.

The host has imported and loaded everything. At each of its steps a forked process looks whether a file, its order, tells it
to send itself a signal. The production code knows nothing of this: functions are wrapped in the forked process.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent.parent
Step = Callable[[str], Callable[..., None]]
"""Names the step that a function then takes."""
Options = dict[str, Any]


@dataclass
class Forked:
    """A forked process, and the file of its order."""

    order: Path
    pid: int = 0

    def state(self) -> str:
        """The kernel's letter: T is stopped; empty for a process that is gone."""
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0]
        return ""

    def send(self, number: int) -> None:
        """Sends a signal; does nothing if the process has ended by itself meanwhile."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def ask(self, step: str, after: int, number: int) -> None:
        """Orders it to send itself a signal when it has passed the step so many times."""
        self.order.with_suffix(".new").write_text(json.dumps((step, after, number)))
        self.order.with_suffix(".new").rename(self.order)


class Host:
    """The host process: runs `module`, whose main calls `fork_each`."""

    def __init__(self, module: str, *arguments: object, env: dict[str, str] | None = None) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *map(str, arguments)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | (env or {}),
        )  # fmt: skip
        self._read_line()

    def fork(self, process: Forked, log: Path, options: Options) -> None:
        """Forks the process, or forks it again after it has died. It writes to the log."""
        assert self._process.stdin is not None
        whole = options | {"order": str(process.order), "log": str(log)}
        self._process.stdin.write(json.dumps(whole) + "\n")
        self._process.stdin.flush()
        process.pid = int(self._read_line())

    def stop(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._process.stdout.close()

    def _read_line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()


def fork_each(run: Callable[[Options], int]) -> None:
    """Forks a process that runs `run` for each line of the standard input, until that ends."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the forked are reaped by the kernel
    print("ready", flush=True)
    for line in sys.stdin:
        if (pid := os.fork()) == 0:
            os._exit(_run(run, json.loads(line)))
        print(pid, flush=True)


def _run(run: Callable[[Options], int], options: Options) -> int:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    with open(options["log"], "a") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    try:
        return run(options)
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()


def read_order(order: Path) -> Step:
    """Names the steps of this process, at which it obeys the order. It is removed when it is obeyed."""
    passed: Counter[str] = Counter()

    def at(step: str) -> Callable[..., None]:
        def look(*_: Any) -> None:
            with contextlib.suppress(FileNotFoundError, ValueError):
                wanted, times, number = json.loads(order.read_text())
                if wanted == step:
                    passed[step] += 1
                    if passed[step] > times:
                        passed.clear()
                        order.unlink()
                        os.kill(os.getpid(), number)

        return look

    return at
