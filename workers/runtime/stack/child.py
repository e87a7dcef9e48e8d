"""A supervised worker: its process over all restarts, its ready line, and its bounded log."""

import os
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from workers.observe import log
from workers.runtime.processes import Process, die_with_parent, stop_process
from workers.runtime.ready import READY_FD, ReadyState, read_ready
from workers.runtime.stack.forked import Forked

LONG_LIFE_S = 60.0
"""A process that was ready for so long starts its row of deaths anew."""
LOG_BYTES = 8 * 1024 * 1024


class Deaths:
    """How often a process has ended by itself in a row, without a long life in between."""

    def __init__(self) -> None:
        self.count = 0

    def add(self, lived_s: float) -> int:
        """Count one more, after a life of so many seconds. Returns how many there are."""
        self.count = 1 if lived_s >= LONG_LIFE_S else self.count + 1
        return self.count


class Child:
    """A worker's process. It runs in a session of its own and dies with the supervisor."""

    def __init__(self, name: str, command: Sequence[str], log: Path, forked: bool = False) -> None:
        """`forked`: whether it is forked from the server that `forked.start_server` has started."""
        self.name, self.command, self.log, self.forked = name, list(command), log, forked
        self.ready: ReadyState | None = None
        """The contents of its ready line; None until it is ready."""
        self.ready_at: float | None = None
        """When it was found to be ready."""
        self.was_ready = False
        """Whether any of its processes was ready."""
        self.deaths = Deaths()
        self.end = ""
        """How the last one of them ended, in words."""
        self.restart_at: float | None = None
        """When to start it again, after it ended by itself."""
        self._process: Process | None = None
        self._pipe: int | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def start(self, env: Mapping[str, str]) -> None:
        """Start the process with these variables added to the environment."""
        read, write = os.pipe()
        bound_log(self.log)
        try:
            self._process = (self._fork(env, write) if self.forked else None) or self._spawn(env, write)
        except BaseException:
            os.close(read)
            raise
        finally:
            os.close(write)
        os.set_blocking(read, False)
        self._pipe, self.ready, self.ready_at, self.restart_at = read, None, None, None

    def _fork(self, env: Mapping[str, str], ready: int) -> Process | None:
        """The process, or None if the server is gone."""
        try:
            return Forked(self.command, env, self.log, (READY_FD, ready))
        except (OSError, EOFError) as error:
            log.line("not forked", log.WARNING, name=self.name, reason=f"{type(error).__name__}: {error}")
            return None

    def _spawn(self, env: Mapping[str, str], ready: int) -> Process:
        with open(self.log, "ab") as output:
            return subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=os.environ | env | {READY_FD: str(ready)},
                pass_fds=[ready],
                start_new_session=True,  # Ctrl-C in the terminal reaches only the supervisor
                preexec_fn=die_with_parent(),
            )

    def poll(self, now: float) -> int | None:
        """The return code if the process has ended; also reads the ready line and bounds the log."""
        bound_log(self.log)
        code = self._process.poll() if self._process else None
        if self._pipe is not None and self.ready is None:  # after the poll, so that a last line is not missed
            self.ready = read_ready(self._pipe)
            if self.ready is not None:
                self.ready_at, self.was_ready = now, True
        return code

    def died(self, now: float, end: str) -> int:
        """Note that the process has ended by itself. Returns how many did in a row."""
        self.end = end
        return self.deaths.add(0.0 if self.ready_at is None else now - self.ready_at)

    def terminate(self) -> None:
        """Send SIGTERM, and do not wait."""
        if self._process and self._process.poll() is None:
            self._process.terminate()

    def stop(self, timeout_s: float = 0.0) -> None:
        """End the process if it still runs: SIGKILL after `timeout_s`."""
        if self._process:
            stop_process(self._process, timeout_s)
            self._process = None
        if self._pipe is not None:
            os.close(self._pipe)
            self._pipe = None


def bound_log(path: Path) -> None:
    """Move a log of more than `LOG_BYTES` to a second file. The process opened it to append, so it may be truncated."""
    if path.exists() and path.stat().st_size > LOG_BYTES:
        path.with_suffix(".log.1").write_bytes(path.read_bytes()[-LOG_BYTES:])
        os.truncate(path, 0)


def last_line(path: Path) -> str:
    """The last line of a log that says something."""
    with suppress(OSError), open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - 8192))
        lines = [line.strip() for line in file.read().decode("utf-8", "replace").splitlines()]
        return next((line for line in reversed(lines) if line), "")[-300:]
    return ""


def log_tail(path: Path, lines: int = 15) -> str:
    """The end of a log, to be appended to an error's text."""
    with suppress(OSError), open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - 8192))
        text = "\n".join(file.read().decode("utf-8", "replace").splitlines()[-lines:])
        return f". The end of {path}:\n{text}"
    return f" (no log at {path})"
