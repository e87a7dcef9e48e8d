"""The processes of the local stack: started, restarted when they end, and stopped."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from pipeline.store.place import place_of
from workers.kafka.admin import ensure_topics, ensure_upstream
from workers.kafka.config import KafkaSettings
from workers.kafka.errors import KafkaError, KafkaUnavailable
from workers.observe import log
from workers.runtime import embedded_broker
from workers.runtime.processes import exit_name
from workers.runtime.ready import ALONE
from workers.runtime.signals import Stop
from workers.runtime.stack import forked, states, unread
from workers.runtime.stack.child import Child, Deaths, last_line, log_tail

STOP_TIMEOUT_S = 10.0
KEEP_TIMEOUT_S = 30.0
"""How long what is unread is tried to be kept, where the disk refuses."""
UNREAD_CHECK_S = 5.0
"""How often it is looked whether what was published again has been read."""
LONGEST_PAUSE_S = 30.0
"""Longest pause before a worker that keeps ending is started again."""
BROKER_RESTARTS = 5
PRELOADED = "encoder", "generator"
"""The workers that load a model."""


class StackError(RuntimeError):
    """The stack cannot run, or cannot go on. The text says what to do."""


def restart_pause(deaths: int) -> float:
    """Seconds before a worker is started again that has ended so often in a row."""
    return min(0.5 * 2.0 ** min(deaths - 1, 9), LONGEST_PAUSE_S)


class LocalStack:
    """The broker, if it is embedded, and one process of each worker. It is checked again and again, and then stopped."""

    def __init__(
        self,
        data: Path,
        settings: KafkaSettings,
        commands: Mapping[str, Sequence[str]],
        model: str,
        embedded: bool,
        restart_delay: Callable[[int], float],
        upstream: Sequence[str],
        stop: Stop,
    ) -> None:
        self.model, self.upstream, self.stopping = model, upstream, stop
        self.data, self.settings, self.embedded, self.restart_delay = data, settings, embedded, restart_delay
        self.logs = data / "logs"
        self.logs.mkdir(parents=True, exist_ok=True)
        self.broker: embedded_broker.EmbeddedBroker | None = None
        self.broker_deaths, self.started_at = Deaths(), 0.0
        self.children = [
            Child(name, command, self.logs / f"{name}.log", name in PRELOADED and forked.available(command))
            for name, command in commands.items()
        ]
        self.ready = False
        self.serves = False
        """Whether the broker may have records that clients sent it."""
        self.check_unread_at: float | None = None
        """When to look whether what was published again has been read."""

    def start(self) -> None:
        """The broker, the topics, what the last one's workers have not read, then the workers."""
        self.started_at = time.monotonic()
        if any(child.forked for child in self.children):
            forked.start_server(model=self.model)  # it imports and loads meanwhile
        if self.embedded:
            self.broker = embedded_broker.start(self.settings.hosts()[0][1], self.logs / "broker.log")
        ensure_topics(self.settings)
        if self.embedded:
            ensure_upstream(self.settings, self.upstream)
            if published := unread.publish_again(self.settings, self.data, self.upstream):
                log.line("published again", **published)
                self.check_unread_at = time.monotonic() + UNREAD_CHECK_S
            self.serves = True
        elif waiting := unread.files(self.data):
            reason = "they were sent to the embedded broker; `factstream up` without --bootstrap publishes them again"
            log.line("unread records wait", log.WARNING, files=", ".join(map(str, waiting)), reason=reason)
        for child in sorted(self.children, key=lambda child: child.forked):  # the others need not wait
            child.start(self._env())
        states.write(self.data, self.children, time.monotonic())

    def _env(self) -> dict[str, str]:
        alone = "1" if self.embedded else ""
        return self.settings.env() | {"FACTSTREAM_DATA": place_of(self.data), ALONE: alone}

    def check(self, now: float) -> None:
        """Restart the processes that have ended. Raises StackError."""
        if self.broker and not self.broker.alive():
            if self.broker_deaths.add(now - self.started_at) > BROKER_RESTARTS:
                raise StackError(f"the embedded broker keeps ending{log_tail(self.broker.log)}")
            log.line("broker ended", log.WARNING, lost="what was published and not yet decided")
            self.stop()  # its topics are gone: the workers' offsets mean nothing on the next one
            self.start()
        changed = [self._check_child(child, now) for child in self.children]
        if any(changed):
            states.write(self.data, self.children, now)
        if self.check_unread_at is not None and now >= self.check_unread_at:
            self._check_unread(now)

    def _check_child(self, child: Child, now: float) -> bool:
        """Whether the worker's state has changed. Raises StackError."""
        was_ready, code = child.ready is not None, child.poll(now)
        if code is not None and child.restart_at is None:
            deaths = child.died(now, exit_name(code))
            if deaths > 1 and not (self.ready or child.was_ready):
                raise StackError(
                    f"the {child.name} ended {deaths} times and was never ready, the last time with {child.end}{log_tail(child.log)}"
                )
            pause_s = self.restart_delay(deaths)
            child.restart_at = now + pause_s
            log.line(
                "worker ended", log.WARNING, name=child.name, end=child.end, deaths=deaths,
                restarts_in_s=pause_s, log=str(child.log), last=last_line(child.log),
            )  # fmt: skip
        elif child.restart_at is not None and now >= child.restart_at:
            child.stop()
            child.start(self._env())
            log.line("worker started again", log.WARNING, name=child.name, pid=child.pid)
        else:
            return was_ready != (child.ready is not None)
        return True

    def _check_unread(self, now: float) -> None:
        """Remove what was kept of the last broker, once the workers have read it: a text in it may have to be erased."""
        self.check_unread_at = now + UNREAD_CHECK_S
        with suppress(KafkaError, KafkaUnavailable, OSError):
            if unread.remove(self.settings, self.data, self.upstream):
                self.check_unread_at = None

    def stop(self) -> None:
        """Send SIGTERM to the workers, and SIGKILL after 10 s; keep what they have not read; then stop the broker.

        Raises StackError if records are lost.
        """
        for child in self.children:
            child.terminate()
        deadline = time.monotonic() + STOP_TIMEOUT_S
        for child in self.children:
            child.stop(max(0.0, deadline - time.monotonic()))
        states.remove(self.data)
        if self.broker:
            try:
                if self.serves and self.broker.alive():
                    self._keep()
            finally:
                self.serves = False
                self.broker.stop()

    def _keep(self) -> None:
        """Keep what is unread; try again where the disk refuses. Raises StackError."""
        deadline, pause_s = time.monotonic() + KEEP_TIMEOUT_S, 0.5
        while True:
            try:
                if kept := unread.keep(self.settings, self.data, self.upstream):
                    log.line("kept for the next start", folder=str(self.data / unread.FOLDER), **kept)
                return
            except (KafkaError, KafkaUnavailable, OSError) as error:
                reason = f"what no worker has read cannot be kept in {self.data / unread.FOLDER}: {error}"
                if time.monotonic() > deadline or self.stopping.is_urgent():
                    raise StackError(f"{reason}; it is lost with the broker's memory") from error
            log.line(
                "not kept yet", log.WARNING, reason=f"{reason}; check the space and the permissions there"
            )
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, 5.0)
