"""The supervisor of the local stack: the embedded broker and one process of each worker.

It starts the processes, and restarts a worker that ends, after a pause that grows while it keeps ending. At the end it drains the
broker, keeps what the workers have not read, and stops everything. Children run in sessions of their own, so that Ctrl-C reaches only
the supervisor, and they are killed if it is killed.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from pipeline.files import Locked, locked
from pipeline.store.place import place_of
from workers.kafka.config import KafkaSettings
from workers.kafka.errors import KafkaUnavailable
from workers.observe import health
from workers.runtime import embedded_broker
from workers.runtime.processes import die_with_parent, stop_process
from workers.runtime.signals import Stop, stopped_by_signals
from workers.runtime.stack.child import log_tail
from workers.runtime.stack.drain import drain
from workers.runtime.stack.local_stack import LocalStack, StackError, restart_pause

__all__ = ["StackError", "answers", "running", "up", "worker_commands"]

READY_TIMEOUT_S = 900.0
"""A first start may download the model."""
TICK_S = 0.1


def worker_commands(
    settings: KafkaSettings,
    data: Path,
    model: str,
    log_format: str,
    metrics_port: str | None = None,
    source_config: Path | None = None,
    http: str | None = None,
) -> dict[str, list[str]]:
    """The command of each worker, of a source worker if it has a configuration, and of the HTTP server if `http`, PORT or
    HOST:PORT, is given; metrics are on `metrics_port` and the next ones.

    The login to the cluster is passed in the environment, never in a command.
    """
    where = ["--bootstrap", settings.bootstrap, "--data", place_of(data)]
    options = [*where, "--model", model, "--log-format", log_format]
    program = [sys.executable, "-m", "workers.cli"]
    commands = {name: [*program, "worker", name, *options] for name in ("encoder", "writer", "generator")}
    if source_config:
        commands["source"] = [*program, "worker", "source", *options, "--config", str(source_config)]
    if http:
        host, port = health.address(http, option="--http")
        commands["http"] = [*program, "serve", *where, "--log-format", log_format]
        commands["http"] += ["--host", host, "--port", str(port)]
    if metrics_port:
        for n, command in enumerate(commands.values()):
            host, port = health.address(metrics_port, n)
            command += ["--metrics-port", f"{host}:{port}"]
    return commands


def up(
    data: Path,
    settings: KafkaSettings,
    commands: Mapping[str, Sequence[str]],
    model: str,
    embedded: bool,
    stop: Stop | None = None,
    say: Callable[[str], object] = print,
    as_json: bool = False,
    drain_s: float = 8.0,
    restart_delay: Callable[[int], float] = restart_pause,
    upstream: Sequence[str] = (),
) -> None:
    """Run the stack until `stop`, SIGINT or SIGTERM; a second signal ends the drain. `say` gets one line when all is
    ready. `upstream`: the topics that a source worker reads, by their full names.

    With `embedded` a broker is started on the port of `settings.bootstrap`. Stopping takes at most `drain_s` for the drain, then
    10 s for the workers, the time to write what they have not read, and 3 s for the broker.
    Raises StackError (the folder is in use; a worker has never become ready; records are lost), BrokerError, KafkaUnavailable,
    TopicsMismatch.
    """
    data = data.absolute()
    stop = stop or Stop()
    with _locked(data), stopped_by_signals(stop):
        stack = LocalStack(data, settings, commands, model, embedded, restart_delay, upstream, stop)
        try:
            stack.start()
            _watch(stack, stop, lambda: say(_ready_line(stack, model, as_json)))
            if stack.ready and stack.broker and stack.broker.alive():
                drain(settings, drain_s, stop, upstream)
        finally:
            stack.stop()


@contextmanager
def running(
    data: Path, model: str | None = None, device: str | None = None, log: Path | None = None
) -> Iterator[tuple[KafkaSettings, str]]:
    """`factstream up` as a process on a free port, for the length of the block: its settings and its ready line.

    Where `model` or `device` is None the environment decides. Raises StackError if it does not start; the reason is on
    standard error, or in the file `log`. Ctrl-C in the terminal does not reach it.
    """
    port = embedded_broker.free_port()
    command = [sys.executable, "-m", "workers.cli", "up", "--data", place_of(data), "--port", str(port)]
    given = {"FACTSTREAM_MODEL": model, "FACTSTREAM_DEVICE": device}
    env = os.environ | {name: value for name, value in given.items() if value is not None}
    with ExitStack() as files:
        errors = None
        if log is not None:
            log.parent.mkdir(parents=True, exist_ok=True)
            errors = files.enter_context(log.open("wb"))
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=env,
            start_new_session=True,
            preexec_fn=die_with_parent(),
        )
    with process:
        try:
            assert process.stdout is not None
            if not (line := process.stdout.readline().strip()):
                raise StackError(
                    f"the stack did not start{log_tail(log) if log else '; its message is above'}"
                )
            yield KafkaSettings.from_env(bootstrap=f"{embedded_broker.HOST}:{port}"), line
        finally:
            stop_process(process, 30.0)


def answers(settings: KafkaSettings) -> bool:
    """Whether a cluster answers where the settings say, at this moment."""
    try:
        replace(settings, connect_timeout_s=1.0).admin().close()
    except KafkaUnavailable:
        return False
    return True


def _watch(stack: LocalStack, stop: Stop, on_ready: Callable[[], object]) -> None:
    """Watch the processes until `stop`. Raises StackError."""
    deadline = time.monotonic() + READY_TIMEOUT_S
    while not stop.wait(TICK_S):
        now = time.monotonic()
        stack.check(now)
        if not stack.ready and all(child.ready is not None for child in stack.children):
            stack.ready = True
            on_ready()
        if not stack.ready and now > deadline:
            late = next(child for child in stack.children if child.ready is None)
            raise StackError(f"the {late.name} was not ready in {READY_TIMEOUT_S:.0f} s{log_tail(late.log)}")


def _ready_line(stack: LocalStack, model: str, as_json: bool) -> str:
    states = {name: value for child in stack.children for name, value in (child.ready or {}).items()}
    where = {"bootstrap": stack.settings.bootstrap, "model": model, "data": place_of(stack.data)}
    if as_json:
        pids = {child.name: child.pid for child in stack.children}
        if stack.broker:
            pids["broker"] = stack.broker.process.pid
        return json.dumps({"ready": True, **where, "pids": pids, **states})
    count = states.get("memories", 0)
    memories = "1 memory" if count == 1 else f"{count} memories"
    served = f", {states['http']}" if "http" in states else ""
    return f"ready: {where['bootstrap']}, model {model}, data {where['data']}, {memories}{served}"


@contextmanager
def _locked(data: Path) -> Iterator[None]:
    """Hold the folder's lock, with this process's id in it. Raises StackError if another holds it."""
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
