"""Two machines, simulated: two stacks with separate disks, on one Kafka and one store, and facts under way all the time.

Each machine runs `factstream up` with a cache folder of its own: nothing else of it is on a disk. Partitions move between
them as they are stopped, killed and started.
"""

import json
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
    published, hurry, errors = [0], threading.Event(), list[BaseException]()
    publisher = threading.Thread(
        target=_publish, args=(settings, facts, rate, published, hurry, errors), daemon=True
    )
    moves = list[str]()

    def at(share: float, what: str, *steps: Callable[[], object]) -> None:
        wait_until(lambda: errors or published[0] >= share * len(facts), LIMIT_S)
        for step in steps:
            step()
        moves.append(f"{published[0]:5} facts published: {what}")
        say(moves[-1])

    try:
        one.start()
        publisher.start()
        at(0.10, "two has come", two.start)
        at(0.25, "both have read", lambda: one.run("digest"), lambda: two.run("digest"))
        at(0.30, "answers quote facts", lambda: _ask(settings, facts[: len(facts) // 4]))
        at(0.35, "two has stopped", two.stop)
        at(0.50, "two is back", two.start)
        at(0.60, "one was killed", one.kill)
        at(0.75, "one is back", one.start)
        at(0.85, "two was killed", two.kill)
        at(0.95, "two is back", two.start)
        hurry.set()
        with on_machine(server.env, folder / "observer"):
            store, report = store_at(folder_of(url)), Report(len(facts))

            def decided() -> bool:
                with store.view(rows=False) as data:
                    return len({row.cause for row in decisions(data)}) >= len(facts)

            def told() -> bool:
                with store.view(rows=False) as data:
                    return not changelog_differences(settings, data)

            _until(lambda: errors or (not publisher.is_alive() and decided()), "every fact decided")
            if errors:
                raise errors[0]
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
        hurry.set()
        one.kill()
        two.kill()


def _publish(
    settings: KafkaSettings, facts: Sequence[Pair], rate: float, published: list[int], hurry: threading.Event,
    errors: list[BaseException],
) -> None:  # fmt: skip
    """One call for each fact would be slow: in calls of 20. The n-th fact has the n-th timestamp in every run."""
    try:
        for begin in range(0, len(facts), 20):
            numbers = iter(range(begin + 1, len(facts) + 1))
            chunk = facts[begin : begin + 20]
            publish(settings, chunk, clock=lambda n=numbers: BEGIN.timestamp() + STEP_S * next(n))  # type: ignore[misc]
            published[0] += len(chunk)
            hurry.wait(len(chunk) / rate)
    except BaseException as error:
        errors.append(error)


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


def digest_of(printed: str) -> str:
    """The digest in what `factstream digest` prints."""
    return json.loads(printed)["digest"] if printed.startswith("{") else printed.split()[0]
