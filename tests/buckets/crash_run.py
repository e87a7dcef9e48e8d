"""One crash run on a store: a writer decides a stream while a plan of faults is carried out."""

import contextlib
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.buckets.plan import PUTS, Fault
from tests.buckets.proxy import Proxy, Rule, Storm
from tests.buckets.servers import Server
from tests.buckets.stream import Stream, erasures
from tests.buckets.writer import BATCH, FAILED, STARTING, write_group
from tests.conftest import runs, wait_until

ROOT = Path(__file__).parent.parent.parent
DISKS = 3  # machines, each with a disk of its own
TAIL = 12 * BATCH
"""Messages after the last fault."""
LIMIT_S = 150.0
"""Longest wait for a step, which is far more than it takes."""
_NO_LIMIT = 10**9
Order = tuple[str, int, int]
"""A step, how often it is passed first, and the signal."""


@dataclass
class Writer:
    """A writer process, on one of the disks."""

    member: int
    disk: Path
    order: Path
    code: Path
    pid: int = 0

    def state(self) -> str:
        """The kernel's letter: T is stopped; empty for a process that is gone."""
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0]
        return ""

    def send(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def ask(self, step: str, after: int, number: int) -> None:
        """Orders it to send itself a signal when it has passed the step so many times."""
        self.order.with_suffix(".new").write_text(json.dumps((step, after, number)))
        self.order.with_suffix(".new").rename(self.order)


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
        self._host = subprocess.Popen(
            [sys.executable, "-m", "tests.buckets.writer", str(self.seed), str(len(self.stream.messages))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | self.server.through(self.proxy.port),
        )  # fmt: skip
        self._read_line()

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
        assert self._host.stdin is not None and self._host.stdout is not None
        self._host.stdin.close()
        self._host.wait(30)
        self._host.stdout.close()
        self.proxy.stop()

    # --- writers ---

    def _start(self, disk: int | None = None, limit: int = _NO_LIMIT, order: Order | None = None) -> Writer:
        """Starts a writer, which is the group's member from now on. It stays on its disk or moves; with an order to an empty one."""
        if disk is None:
            disk = self._disk if self._dice.random() < 0.6 else self._dice.randrange(DISKS)
        self._disk, member = disk, next(self._members)
        place = self.folder / (f"new-disk-{member}" if order else f"disk-{disk}")
        writer = Writer(member, place, self.folder / f"order-{member}", self.folder / f"code-{member}")
        write_group(self.group, member, self._offset())
        options: dict[str, Any] = {
            "member": member, "limit": limit, "url": self.url, "disk": str(place), "order": str(writer.order),
            "code": str(writer.code), "group": str(self.group), "log": str(self.log),
        }  # fmt: skip
        if order:
            writer.ask(*order)
        self._writers.append(writer)
        return self._fork(writer, options)

    def _fork(self, writer: Writer, options: dict[str, Any]) -> Writer:
        assert self._host.stdin is not None
        self._host.stdin.write(json.dumps(options) + "\n")
        self._host.stdin.flush()
        writer.pid = int(self._read_line())
        return writer

    def _read_line(self) -> str:
        assert self._host.stdout is not None
        return self._host.stdout.readline()

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
