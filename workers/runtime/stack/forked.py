"""Processes of `python -m MODULE …`, forked from one process that has imported what they import.

torch and transformers take seconds of processor time to import, in each process, and a model hundreds of megabytes. The standard
library's fork server imports and loads them once, before it has threads or clients, and its forks share their memory. They differ from processes of their own only in that, and in that a model's files are read when the server starts.
"""

import atexit
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path

from workers.runtime.processes import die_with_parent, environment

PRELOAD = "workers.preload"
"""The module with what the workers that load a model have in common."""
GPU_DEVICES = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
"""Devices of Nvidia's driver, of AMD's, and of Windows' for Linux."""
_CONTEXT = multiprocessing.get_context("forkserver")


class Forked:
    """A forked process, with the methods of `subprocess.Popen` that a supervisor needs."""

    def __init__(
        self, command: Sequence[str], env: Mapping[str, str], log: Path, ready: tuple[str, int]
    ) -> None:
        """`command`: an interpreter, "-m", a module and its arguments. `ready`: the variable that gets the descriptor of a pipe, and
        the descriptor. Waits until the server has imported. Raises OSError, EOFError if it has ended.
        """
        _, _, module, *arguments = command
        name, number = ready
        with Connection(os.dup(number), readable=False) as pipe:
            self._process = _CONTEXT.Process(
                target=_run, args=(module, arguments, dict(env), str(log), name, pipe), daemon=True
            )
            self._process.start()

    @property
    def pid(self) -> int:
        return self._process.pid or 0

    def poll(self) -> int | None:
        return self._process.exitcode

    def terminate(self) -> None:
        self._process.terminate()

    def kill(self) -> None:
        self._process.kill()

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if (code := self._process.exitcode) is None:
            raise subprocess.TimeoutExpired(str(self.pid), timeout or 0.0)
        return code


def start_server(preload: str = PRELOAD, model: str = "") -> None:
    """Start the process that is forked, unless it runs. It imports the module `preload` at once; this does not wait for it.

    `model`: FACTSTREAM_MODEL for the module. The process ignores Ctrl-C from its beginning, which would end it with a traceback in the
    middle of an import.
    """
    _CONTEXT.set_forkserver_preload([preload])
    is_main = threading.current_thread() is threading.main_thread()
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN) if is_main else None
    try:
        with environment({"FACTSTREAM_MODEL": model}):
            forkserver.ensure_running()
    finally:
        if is_main:
            signal.signal(signal.SIGINT, handler)


def available(command: Sequence[str]) -> bool:
    """Whether a command can be forked: on Linux, without a GPU, and with the interpreter that runs this.

    A fork cannot use a GPU that its parent has looked at, as a library may at its import.
    """
    fit = sys.platform.startswith("linux") and not any(map(os.path.exists, GPU_DEVICES))
    return fit and list(command[:2]) == [sys.executable, "-m"]


def _run(
    module: str, arguments: list[str], env: dict[str, str], log: str, name: str, pipe: Connection
) -> None:
    """The new process, as `subprocess` would have made it, until the module ends."""
    os.setsid()  # Ctrl-C in the terminal reaches only the supervisor
    if set_signal := die_with_parent(os.getppid()):
        set_signal()
    with open(log, "ab") as output, open(os.devnull, "rb") as nothing:
        for file, number in ((nothing, 0), (output, 1), (output, 2)):
            os.dup2(file.fileno(), number)
    os.environ.update(env)
    os.environ[name] = str(os.dup(pipe.fileno()))  # whoever uses it closes it
    pipe.close()
    sys.argv = [module, *arguments]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        atexit._run_exitfuncs()  # a process of multiprocessing leaves them out
