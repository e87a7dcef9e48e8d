"""One crash run on a store: a writer decides a stream while a plan of faults is carried out."""

import itertools
import json
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.buckets.plan import PUTS, Fault
from tests.buckets.proxy import Proxy, Rule, Storm
from tests.buckets.servers import Server
from tests.buckets.stream import Stream, erasures
from tests.buckets.writer import BATCH, FAILED, STARTING, write_group
from tests.conftest import runs, wait_until
from tests.helpers.forking import Forked, Host

DISKS = 3  # machines, each with a disk of its own
TAIL = 12 * BATCH
"""Messages after the last fault."""
LIMIT_S = 150.0
"""Longest wait for a step, which is far more than it takes."""
_NO_LIMIT = 10**9
Order = tuple[str, int, int]
"""A step, how often it is passed first, and the signal."""


@dataclass
class Writer(Forked):
    """A writer process, and where its exit code will be."""

    member: int = 0
    code: Path = Path()


@dataclass
class CrashRun:
    """A run of writers on `server`, through a proxy, with their disks and logs under `folder`."""

    server: Server
    url: str
    folder: Path
    seed: int
    stream: Stream
    storm: Storm
    done: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.log, self.group = self.folder / "log", self.folder / "group"
        self._members, self._dice = itertools.count(), random.Random(self.seed)
        self._disk, self._writers = 0, list[Writer]()
        write_group(self.group, -1, 0)
        self.proxy = Proxy(self.server.port, self.storm).start()
        self._host = Host(
            "tests.buckets.writer", self.seed, len(self.stream.messages),
            env=self.server.through(self.proxy.port),
        )  # fmt: skip

    def __call__(self, plan: list[Fault], say: Callable[[str], object] = lambda _: None) -> int:
        """Carries out the plan, and lets a writer decide a few more messages; returns how many messages were decided."""
        for number, fault in enumerate(plan, 1):
            getattr(self, "_" + fault.kind.replace(", ", "_").replace(" ", "_"))(fault)
            self.done[str(fault)] += 1
            say(f"{number}/{len(plan)}  message {self._offset():5}  {fault}")
        limit = self._offset() + TAIL
        self._end_all()
        for disk in range(DISKS):  # each machine is back at the end, and takes the partition once
            self._finish(self._start(disk, limit))
        return limit

    def stop(self) -> None:
        self._end_all()
        self._host.stop()
        self.proxy.stop()

    # --- writers ---

    def _start(self, disk: int | None = None, limit: int = _NO_LIMIT, order: Order | None = None) -> Writer:
        """Starts a writer, which is the group's member from now on. It stays on its disk or moves; with an order to an empty one."""
        if disk is None:
            disk = self._disk if self._dice.random() < 0.6 else self._dice.randrange(DISKS)
        self._disk, member = disk, next(self._members)
        place = self.folder / (f"new-disk-{member}" if order else f"disk-{disk}")
        writer = Writer(self.folder / f"order-{member}", member=member, code=self.folder / f"code-{member}")
        write_group(self.group, member, self._offset())
        options = {
            "member": member, "limit": limit, "url": self.url, "disk": str(place), "code": str(writer.code),
            "group": str(self.group),
        }  # fmt: skip
        if order:
            writer.ask(*order)
        self._writers.append(writer)
        self._host.fork(writer, self.log, options)
        return writer

    def _working(self) -> Writer:
        """The writer that works; a new one if the last is dead."""
        if self._writers and runs(self._writers[-1].pid):
            return self._writers[-1]
        return self._start()

    def _for(self, fault: Fault, number: int) -> Writer:
        """A writer with the order to send itself a signal at the fault's step. Only a fresh one passes some of them."""
        if fault.step in STARTING:
            self._end_all()
            return self._start(order=(fault.step, 0, number))
        writer = self._working()
        writer.ask(fault.step, fault.after, number)
        return writer

    def _end_all(self) -> None:
        for writer in self._writers:
            writer.send(signal.SIGKILL)
        wait_until(lambda: not any(runs(writer.pid) for writer in self._writers))

    def _finish(self, writer: Writer) -> None:
        """Waits until a writer has ended by itself."""
        self._until(lambda: not runs(writer.pid), f"an end of writer {writer.member}")
        code = int(writer.code.read_text())
        assert code != FAILED, f"writer {writer.member} failed; see {self.log}"

    def _offset(self) -> int:
        return int(json.loads(self.group.read_text())[1])

    def _until(self, true: Callable[[], object], what: str) -> None:
        deadline = time.monotonic() + LIMIT_S
        while not true():
            for writer in self._writers:
                if writer.code.exists() and int(writer.code.read_text()) == FAILED:
                    raise AssertionError(f"writer {writer.member} failed, waiting for {what}; see {self.log}")
            assert self._offset() < len(self.stream.messages), "too few messages for this plan"
            assert time.monotonic() < deadline, f"{what}: not within {LIMIT_S:.0f} s; see {self.log}"
            time.sleep(0.01)

    def _work(self, batches: int, erased: int = 0) -> None:
        """Waits until so many batches more are decided, and so many erasures among them."""
        begin = self._offset()

        def enough() -> bool:
            passed = self.stream.messages[begin : self._offset()]
            self._working()  # it may have died of the fault before
            return len(passed) >= batches * BATCH and erasures(passed) >= erased

        self._until(enough, f"{batches} batches")

    # --- faults, by their kinds ---

    def _kill(self, fault: Fault) -> None:
        writer = self._for(fault, signal.SIGKILL)
        self._until(lambda: not runs(writer.pid), str(fault))

    def _stand_still(self, fault: Fault) -> None:
        zombie = self._for(fault, signal.SIGSTOP)
        self._until(lambda: zombie.state() == "T", str(fault))
        self._start((self._disk + 1) % DISKS)
        self._work(6, erased=2)
        zombie.send(signal.SIGCONT)
        self._finish(zombie)

    def _kill_PUT_landed(self, fault: Fault) -> None:
        writer = self._working()
        rule = Rule(
            "answer lost", "PUT", PUTS[fault.step], fault.after, then=lambda: writer.send(signal.SIGKILL)
        )
        self.proxy.rules.insert(0, rule)
        self._until(lambda: not runs(writer.pid), str(fault))

    def _kill_PUT_lands_late(self, fault: Fault) -> None:
        """The PUT lands when the next writer has folded the history, and decided what it will append."""
        held, passed, landed = threading.Event(), threading.Event(), threading.Event()
        writer = self._working()
        self.proxy.rules.insert(0, _slow(fault, held, passed, landed))
        self._until(held.is_set, str(fault))
        writer.send(signal.SIGKILL)
        self._until(lambda: not runs(writer.pid), "a kill")
        following = self._start()
        following.ask("decided", 0, signal.SIGSTOP)
        self._until(lambda: following.state() == "T", "a decision")
        passed.set()
        self._until(landed.is_set, "a late PUT")
        following.send(signal.SIGCONT)

    def _slow(self, fault: Fault) -> None:
        held, passed, landed = threading.Event(), threading.Event(), threading.Event()
        slow = self._working()
        self.proxy.rules.insert(0, _slow(fault, held, passed, landed))
        self._until(held.is_set, str(fault))
        self._start((self._disk + 1) % DISKS)
        self._work(3, erased=1)
        passed.set()
        self._finish(slow)


def _slow(fault: Fault, held: threading.Event, passed: threading.Event, landed: threading.Event) -> Rule:
    def wait() -> None:
        held.set()
        passed.wait(LIMIT_S)

    return Rule("slow", "PUT", PUTS[fault.step], fault.after, before=wait, then=landed.set)
