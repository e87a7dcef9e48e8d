"""Crashes under load: facts are streamed while workers are killed, paused, added and removed, and the broker restarted.

Afterwards nothing may be lost, nothing decided twice, the changelog must say what the history says, and the digest must
be that of a run on the same facts that nobody disturbed. The facts and the faults follow from a seed; the moments do not.

    python -m tests.faults.crash --broker apache --kills 100 --facts 6000
    python -m tests.faults.crash --broker embedded --restarts 10 --rebalances 20 --pauses 10
"""

import argparse
import contextlib
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from kafka import TopicPartition

from pipeline.history import log as history
from pipeline.memory import bank
from pipeline.memory.records import to_record
from schemas import topics
from schemas.changelog import MAX_CHANGELOG_BYTES, PositionRecord, changelog_key
from schemas.common import decode, encode
from schemas.fact import Fact, Forget
from tests.conftest import runs
from tests.faults.crash_worker import STARTING, STEPS
from tests.helpers.apache import Apache
from workers.client import publishing as client
from workers.kafka.admin import end_offsets, ensure_topics
from workers.kafka.clients import KafkaSettings, KafkaUnavailable
from workers.runtime import embedded_broker as broker

HERE = Path(__file__).parent
BEGIN = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=1)
"""Of the facts' timestamps. Kafka deletes what is older than its retention, and refuses what is an hour ahead."""
STEP_S = 0.1
NAMESPACES = [f"space-{n}" for n in range(12)]
CHUNK = 100
"""Facts of one call of `publish`. What belongs together is further apart: a broker that loses its topics keeps no order
within a call."""
PLACES = ("in the old hall", "by the river", "under glass", "at the north gate", "behind the mill")
BROKER = ("restart", "wipe", "node")
Pair = tuple[str, Fact | Forget]


class Fault(NamedTuple):
    kind: str  # kill, pause, add, remove, restart, wipe or node
    worker: str = ""
    step: str = ""  # none: at any moment
    after: int = 0  # times that the step is passed before; or the node, 0 for any


def stream(seed: int, count: int) -> list[Pair]:
    """Facts of several namespaces: new ones, newer and older versions, repetitions, the same fact_id, and forgets."""
    dice, made = random.Random(seed), list[Pair]()
    for n in range(count):
        namespace, fact_id = dice.choice(NAMESPACES), f"fact-{n}"
        kind = dice.choices(("new", "newer", "older", "again", "twice", "forget"), (50, 20, 5, 15, 5, 5))[0]
        earlier = made[dice.randrange(n - CHUNK)] if n > CHUNK else None
        if kind == "new" or earlier is None or isinstance(earlier[1], Forget):
            text = f"The {_name(dice)} {_name(dice)} of {_name(dice)} stands {dice.choice(PLACES)} {n}."
            made.append((namespace, Fact(text=text, fact_id=fact_id, category=dice.choice("abc"))))
            continue
        namespace, old = earlier
        assert isinstance(old, Fact)
        if kind == "forget":
            made.append((namespace, Forget(forget=bank.memory_id(namespace, old.text))))
        elif kind == "twice":
            made.append((namespace, old))
        elif kind == "again":
            made.append((namespace, old.model_copy(update={"fact_id": fact_id})))
        else:
            text = f"{old.text.split(' stands ')[0]} stands {dice.choice(PLACES)} {n}."
            at = BEGIN if kind == "older" else None
            made.append((namespace, Fact(text=text, fact_id=fact_id, observed_at=at)))
    return made


def _name(dice: random.Random) -> str:
    return "".join(dice.choice("bdfgklmnprstvz") + dice.choice("aeiou") for _ in range(3)).title()


def faults(
    seed: int,
    kills: int = 0,
    pauses: int = 0,
    rebalances: int = 0,
    restarts: int = 0,
    wipes: int = 0,
    nodes: int = 0,
) -> list[Fault]:
    """So many of each, shuffled; the kills and the pauses go round all steps, and moments between the steps."""
    dice = random.Random(seed)
    steps = [(worker, step) for worker, names in STEPS.items() for step in ("", *names)]
    steps += [("writer", step) for step in STARTING]
    dice.shuffle(steps)
    kinds = ["kill"] * kills + ["pause"] * pauses
    made = [
        Fault(kind, *step, dice.choice((0, 0, 0, 1, 2)) if step[1] not in STARTING else dice.randrange(3))
        for kind, step in zip(kinds, itertools.cycle(steps), strict=False)
    ]
    made += [Fault(("add", "remove")[n % 2], dice.choice(list(STEPS))) for n in range(rebalances)]
    made += [Fault("restart")] * restarts + [Fault("wipe")] * wipes + [Fault("node")] * nodes
    dice.shuffle(made)
    return made


@dataclass
class Process:
    kind: str
    order: Path
    pid: int = 0

    def state(self) -> str:
        """As the kernel has it: T is stopped, and none is gone."""
        try:
            return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return ""

    def send(self, number: int) -> None:
        """A signal; one that has ended by itself meanwhile needs none."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)


@dataclass
class Report:
    facts: int
    digest: str = ""
    kills: Counter[str] = field(default_factory=Counter)
    done: Counter[str] = field(default_factory=Counter)
    lost: int = 0
    twice: int = 0
    changelog: list[str] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0


class Cluster:
    """A broker of either kind, which can be restarted and wiped; or a foreign one, which cannot."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind = kind
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._running: Apache | broker.EmbeddedBroker | None = None
        if kind == "embedded":
            self._running = broker.start(broker.free_port(), folder / "broker.log")
        elif kind in ("apache", "three"):
            self._running = Apache(folder, nodes=3 if kind == "three" else 1)
        self.bootstrap = self._running.bootstrap if self._running else os.environ["KAFKA_BOOTSTRAP"]

    def restart(self, wipe: bool) -> None:
        """Killed, and started anew; with `wipe` empty. The embedded one always is."""
        if isinstance(self._running, Apache):
            if wipe:
                return self._running.wipe()
            self._running.kill()
            self._running.revive()
        elif self._running:
            self._running.process.kill()
            self._running.process.wait()
            self._running = broker.start(self._running.port, self._folder / "broker.log")

    def lose(self, node: int, for_s: float) -> None:
        """One node of several is killed, and comes back on its data."""
        assert isinstance(self._running, Apache)
        self._running.kill(node)
        time.sleep(for_s)
        self._running.revive()

    def stop(self) -> None:
        if self._running:
            self._running.stop()


class Run:
    """One stream of facts through real workers, and the faults."""

    def __init__(self, cluster: Cluster, settings: KafkaSettings, folder: Path, model: Path) -> None:
        self.cluster, self.settings, self.data, self.log = cluster, settings, folder / "data", folder / "log"
        folder.mkdir(parents=True, exist_ok=True)
        self._host = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.crash_worker", str(model)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=os.environ | {"PYTHONPATH": str(HERE.parent.parent), "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        self._say()
        self._folder, self._names = folder, itertools.count()
        self.workers = [self._new(kind) for kind in (*STEPS, *STEPS)]
        self._hurry, self._failed = threading.Event(), list[BaseException]()

    def _say(self, **told: Any) -> str:
        assert self._host.stdin is not None and self._host.stdout is not None
        if told:
            self._host.stdin.write(json.dumps(told) + "\n")
            self._host.stdin.flush()
        return self._host.stdout.readline()

    def _new(self, kind: str) -> Process:
        made = Process(kind, self._folder / f"order-{next(self._names)}")
        self._start(made)
        return made

    def _start(self, process: Process) -> None:
        process.pid = int(
            self._say(
                worker=process.kind, data=str(self.data), order=str(process.order), log=str(self.log),
                env=self.settings.env(),
            )
        )  # fmt: skip

    # --- publishing ---

    def _publish(self, facts: Sequence[Pair], wait: bool, rate: float) -> None:
        """In calls of CHUNK facts, at a rate until it hurries. The n-th fact has the n-th timestamp in every run."""
        try:
            for begin in range(0, len(facts), CHUNK):
                for failures in itertools.count(1):
                    try:
                        self._publish_chunk(facts, begin, wait, rate)
                        break
                    except KafkaUnavailable:  # no broker when the call begins: an application comes again
                        if failures > 5:
                            raise
        except BaseException as error:
            self._failed.append(error)

    def _publish_chunk(self, facts: Sequence[Pair], begin: int, wait: bool, rate: float) -> None:
        clock = itertools.count(begin + 1)

        def paced() -> Iterator[Pair]:
            for pair in facts[begin : begin + CHUNK]:
                self._hurry.wait(1 / rate)
                yield pair

        client.publish(self.settings, paced(), wait, clock=lambda: BEGIN.timestamp() + STEP_S * next(clock))

    # --- faults ---

    def _until(self, true: Callable[[], object], limit_s: float, what: str) -> None:
        deadline = time.monotonic() + limit_s
        while not true():
            if self._failed:
                raise self._failed[0]
            assert time.monotonic() < deadline, f"{what}: not within {limit_s:.0f} s; see {self.log}"
            time.sleep(0.02)

    def _tend(self) -> None:
        """Starts again what has ended, as a supervisor does."""
        for process in self.workers:
            if not runs(process.pid):
                self._start(process)

    def _do(self, fault: Fault, dice: random.Random, report: Report) -> None:
        self._tend()
        report.done[fault.kind] += 1
        own = [process for process in self.workers if process.kind == fault.worker]
        if fault.kind in BROKER:
            time.sleep(dice.random())
            # As `up` does with its broker: nobody of the old one's groups may join those of the new one, where the
            # embedded broker's groups would never form.
            with self._without_workers() if self.cluster.kind == "embedded" else contextlib.nullcontext():
                self.cluster.restart(fault.kind == "wipe")
        elif fault.kind == "node":
            self.cluster.lose(1 + dice.randrange(3) if not fault.after else fault.after, dice.uniform(4, 8))
        elif fault.kind == "add":
            self.workers.append(self._new(fault.worker))
            time.sleep(dice.uniform(0.5, 2))
        elif fault.kind == "remove":
            gone = dice.choice(own if len(own) > 1 else [p for p in self.workers if p.kind != fault.worker])
            # The embedded broker's group may stand still for minutes when a member leaves it while others join, as they do
            # here all the time (plain consumers show it). One that dies it puts out of the group.
            gone.send(signal.SIGKILL if self.cluster.kind == "embedded" else signal.SIGTERM)
            self.workers.remove(gone)
            time.sleep(dice.uniform(0.5, 2))
        else:
            self._signal(fault, own, dice, report)

    @contextlib.contextmanager
    def _without_workers(self) -> Iterator[None]:
        for process in self.workers:
            process.send(signal.SIGKILL)
        self._until(lambda: not any(runs(p.pid) for p in self.workers), 10, "kills")
        yield
        self._tend()

    def _signal(self, fault: Fault, own: list[Process], dice: random.Random, report: Report) -> None:
        number = signal.SIGKILL if fault.kind == "kill" else signal.SIGSTOP
        if fault.step == "half told":  # a takeover tells the difference: without one there is nothing to tell
            self._order(own, Fault("kill", "writer", "before the changelog"), signal.SIGKILL)

            def obeyed() -> bool:
                if not all(process.order.exists() for process in own):
                    return True
                self._tend()  # whom the last order killed may die only now, and facts must go on
                return False

            self._until(obeyed, 60, "a file that nobody was told of")
        if fault.step:
            self._order(own, fault, number)
        else:
            time.sleep(dice.random())
            self._tend()  # two may have obeyed the last order
            dice.choice(own).send(number)
        turned = time.monotonic()

        def struck() -> bool:
            nonlocal turned
            if not all(process.order.exists() for process in own):  # obeyed, or none was given
                return True
            self._tend()
            if (
                fault.step in STARTING and time.monotonic() > turned
            ):  # a fresh worker goes through these steps
                own[0].send(signal.SIGKILL)
                self._until(lambda: not runs(own[0].pid), 10, "a kill")
                self._start(own[0])
                turned = time.monotonic() + 5
            return False

        self._until(struck, 60, f"{fault.kind} at {fault.step!r} of the {fault.worker}")
        for process in own:
            process.order.unlink(missing_ok=True)
        report.kills[f"{fault.worker}: {fault.step or 'at any moment'}"] += 1
        if (
            fault.kind == "pause"
        ):  # until the group has given its partitions away, and others have worked on them
            time.sleep(2.5 * self.settings.session_timeout_ms / 1000)
            for process in own:
                if process.state() == "T":
                    process.send(signal.SIGCONT)
        self._tend()

    def _order(self, own: list[Process], fault: Fault, number: int) -> None:
        """All workers of the kind are told: which of them has partitions is the group's affair. Two may obey."""
        for process in own:
            process.order.with_suffix(".new").write_text(json.dumps((fault.step, fault.after, number)))
            process.order.with_suffix(".new").rename(process.order)

    # --- the whole ---

    def __call__(self, facts: Sequence[Pair], plan: Sequence[Fault], rate: float, seed: int) -> Report:
        report, started, dice = Report(len(facts)), time.monotonic(), random.Random(seed)
        ensure_topics(self.settings)
        wait = any(fault.kind in BROKER for fault in plan)
        publisher = threading.Thread(target=self._publish, args=(facts, wait, rate), daemon=True)
        publisher.start()
        for number, fault in enumerate(plan, 1):
            self._do(fault, dice, report)
            print(
                f"{time.monotonic() - started:6.0f} s  {number}/{len(plan)}  {' '.join(map(str, fault))}",
                flush=True,
            )
        self._hurry.set()

        def over() -> bool:
            self._tend()
            time.sleep(0.5)
            return not publisher.is_alive() and len({row.cause for row in self._rows()}) >= len(facts)

        self._until(over, 300, "every fact decided")
        with contextlib.suppress(AssertionError):  # the report tells what is left
            self._until(lambda: not _differences(self.settings, self._banks()), 20, "the changelog")
        report.seconds = time.monotonic() - started
        self._finish(facts, report)
        return report

    def _rows(self) -> Iterator[Any]:
        for number in history.partitions(self.data):
            for _, rows in history.read(self.data, number):
                yield from rows

    def _banks(self) -> dict[int, bank.Bank]:
        return {
            n: bank.fold(row for _, made in history.read(self.data, n) for row in made)
            for n in history.partitions(self.data)
        }

    def _finish(self, facts: Sequence[Pair], report: Report) -> None:
        for process in self.workers:
            process.send(signal.SIGTERM)
        self._until(lambda: not any(runs(p.pid) for p in self.workers), 60, "an end")
        rows = [row for row in self._rows() if row.outcome != "evicted"]
        report.outcomes = Counter(row.outcome for row in rows)
        taken = Counter(row.fact_id for row in rows if row.fact_id and row.outcome != "duplicate")
        report.lost = len({f.fact_id for _, f in facts if isinstance(f, Fact)} - set(taken))
        report.twice = sum(count - 1 for count in taken.values())
        report.twice += sum(count - 1 for count in Counter(row.cause for row in rows).values())
        banks = self._banks()
        report.digest = bank.digest(banks.values())
        report.changelog = _differences(self.settings, banks)

    def stop(self) -> None:
        for process in self.workers:
            process.send(signal.SIGKILL)
        assert self._host.stdin is not None and self._host.stdout is not None
        self._host.stdin.close()
        self._host.wait(30)
        self._host.stdout.close()


def _differences(settings: KafkaSettings, banks: dict[int, bank.Bank]) -> list[str]:
    """What a replica that reads the changelog now would have otherwise than the history."""
    told = compacted(settings)
    wrong = []
    for number, held in banks.items():
        for namespace in held.namespaces:
            for memory in held.memories(namespace):
                key = changelog_key(namespace, memory.memory_id)
                if told.pop((number, key), None) != encode(to_record(memory)):
                    wrong.append(f"{key!r} is not as in the history")
            value = told.pop((number, changelog_key(namespace)), None)
            if value is None or decode(
                PositionRecord, value, MAX_CHANGELOG_BYTES
            ).positions != held.positions(namespace):
                wrong.append(f"the position of {namespace}")
    return wrong + [f"{key!r} is no memory any more" for _, key in told]


def compacted(settings: KafkaSettings) -> dict[tuple[int, bytes], bytes]:
    """The changelog as it is left when it is compacted: (partition, key) to value."""
    consumer = settings.consumer()
    name = settings.topic(topics.MEMORY_CHANGELOG)
    parts = [TopicPartition(name, p) for p in sorted(consumer.partitions_for_topic(name) or ())]
    ends = end_offsets(consumer, parts)
    consumer.assign(parts)
    consumer.seek_to_beginning()
    last: dict[tuple[int, bytes], bytes | None] = {}
    while any(consumer.position(tp) < end for tp, end in ends.items()):
        for records in consumer.poll(timeout_ms=100).values():
            for record in records:
                last[record.partition, record.key] = record.value
    consumer.close()
    return {where: value for where, value in last.items() if value is not None}


def check(report: Report, calm: Report) -> None:
    """What must be, whatever was done to the workers and to the broker."""
    assert report.lost == 0, f"{report.lost} facts lost"
    assert report.twice == 0, f"{report.twice} decided twice"
    assert not report.changelog, (
        f"{len(report.changelog)} differences of the changelog: {report.changelog[:5]}"
    )
    assert report.digest == calm.digest, "another memory than without the faults"
    if not set(BROKER) & set(report.done):  # after which facts are sent again, and count as duplicates
        assert report.outcomes == calm.outcomes


def both(
    cluster: Cluster,
    folder: Path,
    model: Path,
    facts: Sequence[Pair],
    plan: Sequence[Fault],
    rate: float,
    seed: int,
    session_ms: int,
) -> tuple[Report, Report]:
    """A run that nobody disturbs and one with the faults, compared."""
    reports = []
    for name, these in (("calm", []), ("crash", plan)):
        settings = KafkaSettings(cluster.bootstrap, f"{folder.name}.{name}.", session_timeout_ms=session_ms)
        run = Run(cluster, settings, folder / name, model)
        try:
            reports.append(run(facts, these, rate if these else 1e9, seed))
        finally:
            run.stop()
        print(f"{name}: {reports[-1]}", flush=True)
    check(reports[1], reports[0])
    return reports[0], reports[1]


def main() -> int:
    from tests.helpers.models import make_gpt2

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--broker", choices=("embedded", "apache", "three"), default="embedded")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--facts", type=int, default=6000)
    parser.add_argument("--rate", type=float, default=25.0, help="facts a second until the last fault")
    for name in ("kills", "pauses", "rebalances", "restarts", "wipes", "nodes"):
        parser.add_argument(f"--{name}", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="kept, for a look afterwards")
    a = parser.parse_args()
    folder = a.folder or Path(tempfile.mkdtemp(prefix="factstream-crash-"))
    model = make_gpt2(folder / "model")
    cluster = Cluster(a.broker, folder / "broker")
    facts, plan = (
        stream(a.seed, a.facts),
        faults(a.seed, a.kills, a.pauses, a.rebalances, a.restarts, a.wipes, a.nodes),
    )
    try:
        calm, _ = both(cluster, folder, model, facts, plan, a.rate, a.seed, 1500)
    finally:
        cluster.stop()
    print(
        f"{len(plan)} faults, {a.facts} facts: 0 lost, 0 decided twice, digest {calm.digest[:12]} as without faults"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
