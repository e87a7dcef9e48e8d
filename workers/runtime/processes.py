"""Child processes: their environment, an end in bounded time, and one when their parent dies."""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol


class Process(Protocol):
    """What a `subprocess.Popen` has in common with other processes."""

    @property
    def pid(self) -> int: ...
    def poll(self) -> int | None: ...
    def terminate(self) -> None: ...
    def kill(self) -> None: ...
    def wait(self, timeout: float | None = None) -> object:
        """Raises subprocess.TimeoutExpired."""


def stop_process(process: Process, timeout_s: float) -> None:
    """SIGTERM, wait, SIGKILL; reaps the process. Does nothing for one that has ended."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
    try:
        process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def die_with_parent(parent: int | None = None) -> Callable[[], None] | None:
    """A `preexec_fn` by which the kernel sends SIGKILL to the child when its parent (this process) ends, however that ends.

    Linux only (prctl PR_SET_PDEATHSIG); elsewhere None: there a parent that was killed with SIGKILL leaves
    its children. The signal follows the parent's *thread*, so start children from the thread that lives as
    long as the process.
    """
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None, use_errno=True)  # loaded here: code between fork and exec must not block
    parent = parent or os.getpid()

    def set_signal() -> None:
        libc.prctl(1, signal.SIGKILL)
        if os.getppid() != parent:  # it ended before the call
            os._exit(1)

    return set_signal


@contextlib.contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """A block with these variables in the environment of this process, and of those that it starts."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def exit_name(code: int) -> str:
    """A return code in words: a signal or an exit code."""
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
