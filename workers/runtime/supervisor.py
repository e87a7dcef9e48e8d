"""The local stack: the embedded broker and one of each worker, supervised by one process.

It knows processes: how they are started, watched, started again, drained and stopped. What they do is their
own. Children run in sessions of their own, so that Ctrl-C reaches only the supervisor, and die with it if
it is killed.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from kafka.errors import KafkaError

from pipeline.files import Locked, locked
from schemas.topics import DEAD_LETTERS, FACT_ENCODINGS, FACTS, GENERATION_REQUESTS, MEMORY_HITS
from workers.kafka.admin import ensure_topics, lag
from workers.kafka.clients import KafkaSettings, KafkaUnavailable
from workers.observe import log, metrics
from workers.runtime import embedded_broker as broker
from workers.runtime.loop import ALONE, READY_FD

DRAINED = {
    "encoder": [FACTS],
    "generator": [GENERATION_REQUESTS],
    "writer": [FACT_ENCODINGS, MEMORY_HITS, DEAD_LETTERS],
}
"""What each group must have consumed before the embedded broker may end. A group stands after those that
feed it."""
RESTARTS = 5
RESTART_WINDOW_S = 60.0
READY_TIMEOUT_S = 900.0
"""A first start may download the model."""
STOP_TIMEOUT_S = 10.0
LOG_BYTES = 8 * 1024 * 1024
TICK_S = 0.1


class StackError(RuntimeError):
    """The stack cannot run, or cannot go on. The text is for a person."""


@dataclass
class Child:
    """A worker's process, over all its restarts."""

    name: str
    command: Sequence[str]
    log: Path
    process: subprocess.Popen[bytes] | None = None
    pipe: int | None = None
    facts: dict[str, str | int] | None = None
    """What it said when it was ready; None until then."""
    deaths: deque[float] = field(default_factory=lambda: deque(maxlen=RESTARTS + 1))
    restart_at: float | None = None


def worker_commands(
    settings: KafkaSettings, data: Path, model: str, log_format: str, metrics_port: str | None = None
) -> dict[str, list[str]]:
    """The command of each worker; their metrics are on `metrics_port` and the next ones. How to log in to the cluster goes through the environment, never through
    these."""
    options = [
        "--bootstrap",
        settings.bootstrap,
        "--data",
        str(data),
        "--model",
        model,
        "--log-format",
        log_format,
    ]
    commands = {}
    for n, name in enumerate(("encoder", "writer", "generator")):
        commands[name] = [sys.executable, "-m", "workers.cli", "worker", name, *options]
        if metrics_port:
            host, port = metrics.address(metrics_port, n)
            commands[name] += ["--metrics-port", f"{host}:{port}"]
    return commands


def up(
    data: Path,
    settings: KafkaSettings,
    commands: Mapping[str, Sequence[str]],
    model: str,
    embedded: bool,
    stop: threading.Event | None = None,
    say: Callable[[str], object] = print,
    as_json: bool = False,
    drain_s: float = 8.0,
    restart_delay: Callable[[int], float] = lambda deaths: min(0.5 * 2 ** (deaths - 1), 8.0),
) -> None:
    """Run the stack until `stop`, SIGINT or SIGTERM; a second signal ends the drain. Says one line when all
    is ready.

    With `embedded` a broker is started on the port of `settings.bootstrap`. Stopping takes at most
    `drain_s` for the drain, then 10 s for the workers and 3 s for the broker.
    Raises StackError (the folder is in use; a worker dies too often), BrokerError, KafkaUnavailable,
    TopicsMismatch.
    """
    data = data.absolute()
    stop, hurry = stop or threading.Event(), threading.Event()
    with _locked(data), signals(stop, hurry):
        stack = _Stack(data, settings, commands, embedded, restart_delay)
        try:
            stack.start()
            _supervise(stack, stop, lambda: say(_ready_line(stack, model, as_json)))
            if stack.holds_records():
                _drain(settings, drain_s, hurry)
        except StackError:
            if stack.holds_records():
                _drain(settings, 0.0, hurry)  # says what is lost
            raise
        finally:
            stack.stop()


@contextmanager
def running(
    data: Path, model: str | None = None, device: str | None = None
) -> Iterator[tuple[KafkaSettings, str]]:
    """`factstream up` as a process, on a free port, while the block runs: where it is, and its ready line.

    The environment says which model and device where they are None. Raises StackError when it does not start; why
    stands on standard error.
    """
    port = broker.free_port()
    command = [sys.executable, "-m", "workers.cli", "up", "--data", str(data), "--port", str(port)]
    given = {"FACTSTREAM_MODEL": model, "FACTSTREAM_DEVICE": device}
    env = os.environ | {name: value for name, value in given.items() if value is not None}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as process:
        try:
            assert process.stdout is not None
            if not (line := process.stdout.readline().strip()):
                raise StackError("the stack did not start; its message stands above")
            yield KafkaSettings.from_env(bootstrap=f"{broker.HOST}:{port}"), line
        finally:
            broker.stop_process(process, 30.0)


class _Stack:
    """The processes."""

    def __init__(
        self,
        data: Path,
        settings: KafkaSettings,
        commands: Mapping[str, Sequence[str]],
        embedded: bool,
        restart_delay: Callable[[int], float],
    ) -> None:
        self.data, self.settings, self.embedded, self.restart_delay = data, settings, embedded, restart_delay
        self.logs = data / "logs"
        self.logs.mkdir(parents=True, exist_ok=True)
        self.broker: broker.EmbeddedBroker | None = None
        self.broker_deaths: deque[float] = deque(maxlen=RESTARTS + 1)
        self.children = [Child(name, list(c), self.logs / f"{name}.log") for name, c in commands.items()]
        self.ready = False

    def start(self) -> None:
        """The broker, the topics, then the workers."""
        if self.embedded:
            self.broker = broker.start(self.settings.hosts()[0][1], self.logs / "broker.log")
        ensure_topics(self.settings)
        for child in self.children:
            self.start_child(child)

    def holds_records(self) -> bool:
        """Whether stopping now can lose what is in the embedded broker's memory."""
        return self.ready and self.broker is not None and self.broker.alive()

    def start_child(self, child: Child) -> None:
        read, write = os.pipe()
        env = os.environ | self.settings.env() | {"FACTSTREAM_DATA": str(self.data), READY_FD: str(write)}
        env[ALONE] = "1" if self.embedded else ""
        _bound(child.log)
        try:
            with open(child.log, "ab") as output:
                child.process = subprocess.Popen(
                    child.command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=env,
                    pass_fds=[write],
                    start_new_session=True,
                    preexec_fn=broker.die_with_parent(),
                )
        except BaseException:
            os.close(read)
            raise
        finally:
            os.close(write)
        os.set_blocking(read, False)
        child.pipe, child.facts, child.restart_at = read, None, None

    def watch(self, now: float) -> None:
        """Look at every process once: note who is ready, start again who has died. Raises StackError."""
        if self.broker and not self.broker.alive():
            self.broker_deaths.append(now)
            if _recent(self.broker_deaths, now) > RESTARTS:
                raise StackError(f"the embedded broker ends again and again{_tail(self.broker.log)}")
            log.line("broker ended", log.WARNING, lost="what was published and not yet decided")
            self.stop()  # its topics are gone: the workers' offsets mean nothing on the next one
            self.start()
        for child in self.children:
            _bound(child.log)
            code = child.process.poll() if child.process else None
            _listen(child)  # after the look, so that what it said before its end is heard
            if code is not None and child.restart_at is None:
                child.deaths.append(now)
                deaths = _recent(child.deaths, now)
                came_up = self.ready or child.facts is not None
                if deaths > (RESTARTS if came_up else 1):
                    raise StackError(
                        f"the {child.name} ended {deaths} times within a minute, "
                        f"the last time with {_exit(code)}{_tail(child.log)}"
                    )
                child.restart_at = now + self.restart_delay(deaths)
                log.line("worker ended", log.WARNING, name=child.name, end=_exit(code), deaths=deaths)
            elif child.restart_at is not None and now >= child.restart_at:
                self.stop_child(child)
                self.start_child(child)
                log.line("worker started again", log.WARNING, name=child.name, pid=_pid(child))

    def stop(self) -> None:
        """SIGTERM to the workers, SIGKILL to those that are left after 10 s, then the broker."""
        for child in self.children:
            if child.process and child.process.poll() is None:
                child.process.terminate()
        deadline = time.monotonic() + STOP_TIMEOUT_S
        for child in self.children:
            self.stop_child(child, max(0.0, deadline - time.monotonic()))
        if self.broker:
            self.broker.stop()

    def stop_child(self, child: Child, timeout_s: float = 0.0) -> None:
        if child.process:
            broker.stop_process(child.process, timeout_s)
            child.process = None
        if child.pipe is not None:
            os.close(child.pipe)
            child.pipe = None


def _supervise(stack: _Stack, stop: threading.Event, on_ready: Callable[[], object]) -> None:
    deadline = time.monotonic() + READY_TIMEOUT_S
    while not stop.wait(TICK_S):
        now = time.monotonic()
        stack.watch(now)
        if not stack.ready and all(child.facts is not None for child in stack.children):
            stack.ready = True
            on_ready()
        if not stack.ready and now > deadline:
            late = next(child for child in stack.children if child.facts is None)
            raise StackError(f"the {late.name} was not ready in {READY_TIMEOUT_S:.0f} s{_tail(late.log)}")


def _drain(settings: KafkaSettings, limit_s: float, hurry: threading.Event) -> None:
    """Wait until the workers have consumed what the broker holds in memory, and say what they could not."""
    deadline, waiting = time.monotonic() + limit_s, False
    try:
        admin, consumer = settings.admin(), settings.consumer()
        try:
            while behind := _behind(lambda worker, topics: lag(admin, consumer, settings, worker, topics)):
                if not waiting:
                    log.line("draining", **behind)
                waiting = True
                if time.monotonic() > deadline or hurry.wait(TICK_S):
                    log.line("not drained", log.WARNING, lost="in the broker's memory only", **behind)
                    return
        finally:
            consumer.close(autocommit=False)
            admin.close()
        log.line("drained")
    except (KafkaError, KafkaUnavailable) as error:
        log.line("not drained", log.WARNING, reason=str(error))


def _behind(of: Callable[[str, Sequence[str]], dict[str, int]]) -> dict[str, int]:
    """What is left by topic, asked in the order of `DRAINED`: once a group has nothing left, what it made
    of it is already counted for the next."""
    left: dict[str, int] = {}
    for worker, topics in DRAINED.items():
        left |= {topic: count for topic, count in of(worker, topics).items() if count}
    return left


def _ready_line(stack: _Stack, model: str, as_json: bool) -> str:
    facts = {name: value for child in stack.children for name, value in (child.facts or {}).items()}
    where = {"bootstrap": stack.settings.bootstrap, "model": model, "data": str(stack.data)}
    if as_json:
        pids = {child.name: _pid(child) for child in stack.children}
        if stack.broker:
            pids["broker"] = stack.broker.process.pid
        return json.dumps({"ready": True, **where, "pids": pids, **facts})
    count = facts.get("memories", 0)
    memories = "1 memory" if count == 1 else f"{count} memories"
    return f"ready: {where['bootstrap']}, model {model}, data {where['data']}, {memories}"


@contextmanager
def _locked(data: Path) -> Iterator[None]:
    """Hold the folder's lock: the kernel frees it however the process ends."""
    path = data / "up.lock"
    try:
        with locked(path, timeout_s=0):
            path.write_text(f"{os.getpid()}\n")
            yield
    except Locked:
        raise StackError(
            f"another `factstream up` (pid {path.read_text()[:20].strip() or 'unknown'}) runs on {data}: "
            "stop that one, or give this one a folder of its own with --data"
        ) from None


@contextmanager
def signals(stop: threading.Event, hurry: threading.Event) -> Iterator[None]:
    """The first SIGINT or SIGTERM sets `stop`, the next one `hurry`. Only the main thread can have
    handlers."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(*_: object) -> None:
        (hurry if stop.is_set() else stop).set()

    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _listen(child: Child) -> None:
    """Read the ready line, if it has come. It is short: one write of a pipe, so it comes whole."""
    if child.pipe is None or child.facts is not None:
        return
    with suppress(BlockingIOError, ValueError):
        word, _, text = os.read(child.pipe, 4096).decode().partition(" ")
        if word == "ready":
            child.facts = json.loads(text)


def _recent(deaths: deque[float], now: float) -> int:
    return sum(now - death < RESTART_WINDOW_S for death in deaths)


def _bound(path: Path) -> None:
    """Keep a log under `LOG_BYTES`, with the one before it. Its writer appends, so it may be cut under its
    hand."""
    if path.exists() and path.stat().st_size > LOG_BYTES:
        path.with_suffix(".log.1").write_bytes(path.read_bytes()[-LOG_BYTES:])
        os.truncate(path, 0)


def _tail(path: Path, lines: int = 15) -> str:
    with suppress(OSError), open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - 8192))
        text = "\n".join(file.read().decode("utf-8", "replace").splitlines()[-lines:])
        return f". The end of {path}:\n{text}"
    return f" (no log at {path})"


def _exit(code: int) -> str:
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _pid(child: Child) -> int | None:
    return child.process.pid if child.process else None
