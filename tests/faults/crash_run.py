"""One crash run: facts are streamed through real workers while a plan of faults is carried out."""

import contextlib
import itertools
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tests.conftest import runs
from tests.faults.crash_host import Host, Process, give_order
from tests.faults.crash_worker import STARTING, STEPS
from tests.faults.facts import BEGIN, CHUNK, STEP_S, Pair
from tests.faults.plan import BROKER_FAULTS, Fault
from tests.faults.report import Report, changelog_differences, decisions, fill
from tests.helpers.cluster import Cluster
from workers.client.publishing import publish
from workers.kafka.admin import ensure_topics
from workers.kafka.config import KafkaSettings
from workers.kafka.errors import KafkaUnavailable


class CrashRun:
    """Two workers of each kind on `cluster`, with their data under `folder`."""

    def __init__(self, cluster: Cluster, settings: KafkaSettings, folder: Path, model: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.cluster, self.settings = cluster, settings
        self.host = Host(settings, folder, model)
        for kind in (*STEPS, *STEPS):
            self.host.add(kind)
        self._hurry, self._publish_errors = threading.Event(), list[BaseException]()

    def __call__(self, facts: Sequence[Pair], plan: Sequence[Fault], rate: float, seed: int) -> Report:
        """Publishes `rate` facts a second until the last fault, then as fast as it can; returns when all are decided."""
        report, started, dice = Report(len(facts)), time.monotonic(), random.Random(seed)
        ensure_topics(self.settings)
        wait = any(fault.kind in BROKER_FAULTS for fault in plan)
        publisher = threading.Thread(target=self._publish, args=(facts, wait, rate), daemon=True)
        publisher.start()
        for number, fault in enumerate(plan, 1):
            self._carry_out(fault, dice, report)
            passed = time.monotonic() - started
            print(f"{passed:6.0f} s  {number}/{len(plan)}  {' '.join(map(str, fault))}", flush=True)
        self._hurry.set()
        data = self.host.data

        def over() -> bool:
            self.host.revive()
            time.sleep(0.5)
            return not publisher.is_alive() and len({row.cause for row in decisions(data)}) >= len(facts)

        self._until(over, 300, "every fact decided")
        with contextlib.suppress(AssertionError):  # the report says what is left
            self._until(lambda: not changelog_differences(self.settings, data), 20, "the changelog")
        report.seconds = time.monotonic() - started
        self.host.signal_all(signal.SIGTERM)
        self._until(lambda: not self.host.alive(), 60, "an end")
        fill(report, facts, self.settings, data)
        return report

    def stop(self) -> None:
        self.host.stop()

    def _until(self, true: Callable[[], object], limit_s: float, what: str) -> None:
        deadline = time.monotonic() + limit_s
        while not true():
            if self._publish_errors:
                raise self._publish_errors[0]
            assert time.monotonic() < deadline, f"{what}: not within {limit_s:.0f} s; see {self.host.log}"
            time.sleep(0.02)

    # --- publishing ---

    def _publish(self, facts: Sequence[Pair], wait: bool, rate: float) -> None:
        """In calls of CHUNK facts, at a rate until it hurries. The n-th fact has the n-th timestamp in every run."""
        try:
            for begin in range(0, len(facts), CHUNK):
                for failures in itertools.count(1):
                    try:
                        self._publish_chunk(facts, begin, wait, rate)
                        break
                    except KafkaUnavailable:  # no broker when the call begins: an application tries again
                        if failures > 5:
                            raise
        except BaseException as error:
            self._publish_errors.append(error)

    def _publish_chunk(self, facts: Sequence[Pair], begin: int, wait: bool, rate: float) -> None:
        numbers = itertools.count(begin + 1)

        def paced() -> Iterator[Pair]:
            for pair in facts[begin : begin + CHUNK]:
                self._hurry.wait(1 / rate)
                yield pair

        publish(self.settings, paced(), wait, clock=lambda: BEGIN.timestamp() + STEP_S * next(numbers))

    # --- faults ---

    def _carry_out(self, fault: Fault, dice: random.Random, report: Report) -> None:
        self.host.revive()
        report.done[fault.kind] += 1
        if fault.kind in ("kill", "pause"):
            self._strike(fault, dice, report)
        elif fault.kind == "node":
            self.cluster.lose_node(
                1 + dice.randrange(3) if not fault.after else fault.after, dice.uniform(4, 8)
            )
        elif fault.kind in BROKER_FAULTS:
            time.sleep(dice.random())
            # As `up` does with its broker: no member of the old one's groups may join those of the new one, where the
            # embedded broker's groups would never form.
            with self._without_workers() if self.cluster.kind == "embedded" else contextlib.nullcontext():
                self.cluster.restart(fault.kind == "wipe")
        elif fault.kind == "add":
            self.host.add(fault.worker)
            time.sleep(dice.uniform(0.5, 2))
        else:
            self._remove(fault.worker, dice)
            time.sleep(dice.uniform(0.5, 2))

    def _remove(self, kind: str, dice: random.Random) -> None:
        """Ends one worker of the kind for good; if it is the last, one of the other kind."""
        own = self.host.of_kind(kind)
        gone = dice.choice(own if len(own) > 1 else [p for p in self.host.workers if p.kind != kind])
        # The embedded broker's group may stand still for minutes when a member leaves it while others join, as they do
        # here all the time (plain consumers show it). A member that dies is put out of the group.
        gone.send(signal.SIGKILL if self.cluster.kind == "embedded" else signal.SIGTERM)
        self.host.workers.remove(gone)

    @contextlib.contextmanager
    def _without_workers(self) -> Iterator[None]:
        self.host.signal_all(signal.SIGKILL)
        self._until(lambda: not self.host.alive(), 10, "kills")
        yield
        self.host.revive()

    def _strike(self, fault: Fault, dice: random.Random, report: Report) -> None:
        """Kills or pauses a worker of the kind at the step, and lets the paused one go on."""
        own = self.host.of_kind(fault.worker)
        number = signal.SIGKILL if fault.kind == "kill" else signal.SIGSTOP
        if fault.step == "half the difference":  # without a difference a takeover has nothing to send
            self._leave_a_difference(own)
        if fault.step:
            give_order(own, fault, number)
        else:
            time.sleep(dice.random())
            self.host.revive()  # two may have obeyed the last order
            dice.choice(own).send(number)
        self._until_struck(fault, own)
        for process in own:
            process.order.unlink(missing_ok=True)
        report.struck[f"{fault.worker}: {fault.step or 'at any moment'}"] += 1
        if fault.kind == "pause":
            # Until the group has given its partitions away, and others have worked on them.
            time.sleep(2.5 * self.settings.session_timeout_ms / 1000)
            for process in own:
                if process.state() == "T":
                    process.send(signal.SIGCONT)
        self.host.revive()

    def _leave_a_difference(self, own: list[Process]) -> None:
        """Kills a writer between its history and its changelog."""
        give_order(own, Fault("kill", "writer", "before the changelog"), signal.SIGKILL)

        def obeyed() -> bool:
            if not all(process.order.exists() for process in own):
                return True
            self.host.revive()  # a worker may die only now of the last order, and facts must go on
            return False

        self._until(obeyed, 60, "a file that the changelog lacks")

    def _until_struck(self, fault: Fault, own: list[Process]) -> None:
        """Waits until a worker has obeyed its order. Only a fresh worker passes STARTING: one is restarted for it."""
        restarted = time.monotonic()

        def struck() -> bool:
            nonlocal restarted
            if not all(process.order.exists() for process in own):  # obeyed, or there was no order
                return True
            self.host.revive()
            if fault.step in STARTING and time.monotonic() > restarted:
                own[0].send(signal.SIGKILL)
                self._until(lambda: not runs(own[0].pid), 10, "a kill")
                self.host.start(own[0])
                restarted = time.monotonic() + 5
            return False

        self._until(struck, 60, f"{fault.kind} at {fault.step!r} of the {fault.worker}")
