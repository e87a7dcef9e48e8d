"""Two machines, simulated: two stacks with separate disks, on one Kafka and one store, under load.

Each machine runs `factstream up` with a cache folder of its own: nothing else of it is on a disk. Partitions move between
them as they are stopped, killed and started.
"""

import itertools
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from pipeline.memory.bank import memory_id
from pipeline.store.bucket import Bucket
from pipeline.store.opening import store_at
from pipeline.store.place import folder_of
from schemas.fact import Fact, Forget, ForgetKey
from schemas.request import GenerationRequest
from tests.buckets.contents import decoded, files, objects
from tests.buckets.servers import Server
from tests.buckets.writer import on_machine
from tests.conftest import wait_until
from tests.faults.facts import BEGIN, STEP_S, Pair, make_facts
from tests.faults.report import Report, changelog_differences, decisions, fill
from workers import client
from workers.client.publishing import publish
from workers.kafka.admin import ensure_topics
from workers.kafka.config import KafkaSettings

START_S = 120.0
LIMIT_S = 240.0


def make_erasing_facts(seed: int, count: int) -> list[Pair]:
    """The facts of the folder's crash runs, with erasures of earlier ones among their later half."""
    dice, pairs = random.Random(seed), make_facts(seed, count)
    early = [pair for pair in pairs[: count // 2] if isinstance(pair[1], Fact)]
    for namespace, fact in dice.sample(early, count // 20):
        assert isinstance(fact, Fact)
        erasure: Forget | ForgetKey
        if fact.key:
            erasure = ForgetKey(forget_key=fact.key, erase=True)
        else:
            erasure = Forget(forget=memory_id(namespace, fact.text), erase=True)
        pairs.insert(dice.randrange(count // 2 + 1, len(pairs)), (namespace, erasure))
    return pairs


@dataclass
class Machine:
    """A machine with a disk, the cloud's credentials, and a stack."""

    disk: Path
    url: str
    settings: KafkaSettings
    model: Path
    env: dict[str, str]
    process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        command = ["up", "--json", "--bootstrap", self.settings.bootstrap, "--model", str(self.model)]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "workers.cli", *command], env=self._environment(), stdout=subprocess.PIPE, text=True
        )  # fmt: skip
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith("{"), f"{self.disk.name} did not start; see the logs on its disk"

    def stop(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(60) == 0

    def kill(self) -> None:
        """As if its power was cut: the workers die with their supervisor."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def run(self, *arguments: str) -> str:
        """What a command prints on this machine."""
        done = subprocess.run(
            [sys.executable, "-m", "workers.cli", *arguments], env=self._environment(), capture_output=True, text=True
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    def _environment(self) -> dict[str, str]:
        own = {"FACTSTREAM_DATA": self.url, "FACTSTREAM_CACHE": str(self.disk), "OMP_NUM_THREADS": "1"}
        return os.environ | self.env | own | self.settings.env()


class Load:
    """A thread that publishes facts at a rate, up to the number that is allowed. The n-th has the n-th timestamp in every run."""

    def __init__(self, settings: KafkaSettings, facts: Sequence[Pair], rate: float) -> None:
        self._settings, self._facts, self._rate = settings, facts, rate
        self._allowed, self._errors, self._ends = 0, list[BaseException](), threading.Event()
        self.published = 0
        self.thread = threading.Thread(target=self._run, daemon=True)

    def allow(self, count: int) -> None:
        """Waits until all are published that were allowed before, and allows `count` in all."""
        wait_until(lambda: self._errors or self.published >= self._allowed, LIMIT_S)
        self._allowed = count

    def is_over(self) -> bool:
        """Whether all facts are published. Raises what publishing has raised."""
        if self._errors:
            raise self._errors[0]
        return not self.thread.is_alive()

    def stop(self) -> None:
        self._ends.set()

    def _run(self) -> None:
        begin, step = BEGIN.timestamp(), 10  # one call for each fact would be slow
        try:
            while self.published < len(self._facts) and not self._ends.wait(step / self._rate):
                if self.published < self._allowed:
                    chunk, first = self._facts[self.published : self.published + step], self.published
                    numbers = itertools.count(first + 1)
                    publish(self._settings, chunk, clock=lambda n=numbers: begin + STEP_S * next(n))  # type: ignore[misc]
                    self.published += len(chunk)
        except BaseException as error:
            self._errors.append(error)


@dataclass
class Rehearsal:
    """What the two machines and their store were like at the end."""

    report: Report
    digests: set[str]
    """As each machine's `factstream digest` printed it."""
    texts: dict[str, str]
    """All that stands in each object of the store and each file of the disks, decoded."""
    moves: list[str]


def rehearse(
    server: Server, url: str, folder: Path, settings: KafkaSettings, model: Path, facts: Sequence[Pair], rate: float,
    say: Callable[[str], object] = print,
) -> Rehearsal:  # fmt: skip
    """Publishes the facts while the machines come and go; returns when all are decided. `folder` has both disks."""
    ensure_topics(settings)
    one, two = (Machine(folder / name, url, settings, model, server.env) for name in ("one", "two"))
    load, moves = Load(settings, facts, rate), list[str]()

    def at(share: float, what: str, *steps: Callable[[], object]) -> None:
        """Carries out steps while this share of the facts, and no more, is published."""
        load.allow(int(share * len(facts)))
        for step in steps:
            step()
        moves.append(f"{load.published:5} facts published: {what}")
        say(moves[-1])

    try:
        one.start()
        load.thread.start()
        at(0.10, "two has come", two.start)
        at(0.25, "both have read", lambda: one.run("digest"), lambda: two.run("digest"))
        at(0.30, "answers quote facts", lambda: _ask(settings, facts[: len(facts) // 4]))
        at(0.35, "two has stopped", two.stop)
        at(0.50, "two is back", two.start)
        at(0.60, "one was killed", one.kill)
        at(0.75, "one is back", one.start)
        at(0.85, "two was killed", two.kill)
        at(1.00, "two is back", two.start)
        with on_machine(server.env, folder / "observer"):
            store, report = store_at(folder_of(url)), Report(len(facts))

            def decided() -> bool:
                with store.view(rows=False) as data:
                    return len({row.cause for row in decisions(data)}) >= len(facts)

            def told() -> bool:
                with store.view(rows=False) as data:
                    return not changelog_differences(settings, data)

            _until(lambda: load.is_over() and decided(), "every fact decided")
            _until(told, "the changelog")
            digests = {one.run("digest"), two.run("digest")}
            one.stop()
            two.stop()
            with store.view() as data:
                fill(report, facts, settings, data)
            contents = objects(Bucket.open(url))
        for machine in (one, two):
            contents |= {
                f"{machine.disk.name}/{name}": body for name, body in files(machine.disk / "stores").items()
            }
        return Rehearsal(
            report, digests, {name: decoded(name, body) for name, body in contents.items()}, moves
        )
    finally:
        load.stop()
        one.kill()
        two.kill()


def _ask(settings: KafkaSettings, facts: Sequence[Pair]) -> None:
    """Prompts that quote facts, of which some are erased later."""
    with closing(client.Client(settings)) as asking:
        for _, fact in [pair for pair in facts if isinstance(pair[1], Fact)][::4][:12]:
            assert isinstance(fact, Fact)
            for _ in asking.ask(GenerationRequest(prompt=f"{fact.text} Really?", max_new_tokens=2)):
                pass


def _until(true: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not true():
        assert time.monotonic() < deadline, f"{what}: not within {LIMIT_S:.0f} s"
        time.sleep(0.5)
