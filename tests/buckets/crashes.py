"""Crashes of writers on an object store: killed at every step, slow, or outlived.

Meanwhile requests and answers are lost. Afterwards nothing may be lost, nothing decided twice, no erased text left anywhere, and every decision and the digest must be
those of an undisturbed run in a folder. The stream, the plan and the faults of requests follow from a seed.

    python -m tests.buckets.crashes --server moto --kills 100
    python -m tests.buckets.crashes --server seaweedfs --server azurite --seed 7
"""

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pipeline.history import checkpoint
from pipeline.history import log as history
from pipeline.memory import bank
from pipeline.memory.events import Decision
from pipeline.store.bucket import Bucket
from pipeline.store.opening import store_at
from pipeline.store.place import folder_of
from tests.buckets.contents import files, marks, objects
from tests.buckets.crash_run import CrashRun
from tests.buckets.plan import plan_faults
from tests.buckets.proxy import Storm
from tests.buckets.servers import STARTS, Missing, Server, start
from tests.buckets.stream import Stream, make_stream
from tests.buckets.writer import calm, on_machine
from tests.write.local_writer import HOME


@dataclass
class History:
    """What is left of a run: its decisions, and the marks of the texts in its files."""

    decisions: list[Decision]
    texts: set[str]

    @cached_property
    def digest(self) -> str:
        return bank.digest([bank.fold(self.decisions)])

    @property
    def fingerprint(self) -> str:
        return checkpoint.fingerprint(self.decisions)


@dataclass
class Report:
    """The figures of a run; raises AssertionError where something was lost, decided twice or left."""

    messages: int
    kept: History
    folder: History
    left: dict[str, set[str]]
    """Erased texts that are still in an object or on a disk, by its name."""
    done: Counter[str]
    requests: Counter[str]
    faults: Counter[str]
    retries: int
    seconds: float

    @property
    def lost(self) -> int:
        return self.messages - len({row.cause.offset for row in self.kept.decisions})

    @property
    def twice(self) -> int:
        expected = Counter(row.cause for row in self.folder.decisions)
        return (Counter(row.cause for row in self.kept.decisions) - expected).total()

    def check(self) -> None:
        assert self.lost == 0, f"{self.lost} messages lost"
        assert self.twice == 0, f"{self.twice} decisions twice"
        assert not self.left, f"erased texts are left: {self.left}"
        assert self.kept.digest == self.folder.digest, "another memory than in a folder"
        assert self.kept.fingerprint == self.folder.fingerprint, "other decisions than in a folder"
        assert self.kept.texts == self.folder.texts, "other texts than in a folder"

    def __str__(self) -> str:
        kinds = Counter[str]()
        for fault, count in self.done.items():
            kinds[fault.partition(":")[0]] += count
        lines = [
            f"messages {self.messages}, decisions {len(self.kept.decisions)}, lost {self.lost}, decided twice {self.twice}",
            f"digest {self.kept.digest[:16]}, in a folder {self.folder.digest[:16]}; erased texts left {len(self.left)}",
            f"faults of writers {self.done.total()}, of {len(self.done)} kinds and steps: {_counts(kinds)}",
            f"requests {self.requests.total()}: {_counts(self.requests)}",
            f"faults of requests {self.faults.total()}: {_counts(self.faults)}",
            f"retries of batches {self.retries}; {self.seconds:.0f} s",
        ]
        return "\n".join("  " + line for line in lines)


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counter.items()))


def crash(
    server: Server, url: str, folder: Path, seed: int, kills: int, others: int, share: float,
    say: Callable[[str], object] = lambda _: None,
) -> Report:  # fmt: skip
    """Carries out the plan of a seed on a store, with faults in this share of the requests, and does the same in a folder."""
    plan = plan_faults(seed, kills, others)
    stream, begin = make_stream(seed, 200 + 60 * len(plan)), time.monotonic()
    run = CrashRun(server, url, folder / "run", seed, stream, Storm(seed, share))
    try:
        messages = run(plan, say)
    finally:
        run.stop()
    seconds = time.monotonic() - begin
    there, texts = _read_store(server, url, folder / "reader")
    calm(folder / "folder", Stream(stream.messages[:messages], stream.answers))
    expected = _read_folder(folder / "folder")
    texts |= {
        f"{place.name}/{name}": own
        for place in folder.glob("run/disk-?")
        for name, own in marks(files(place)).items()
    }
    return Report(
        messages, there, expected, {name: rest for name, own in texts.items() if (rest := own - expected.texts)}, run.done,
        Counter(method for method, *_ in run.proxy.log), run.proxy.done,
        run.log.read_text().count("retry "), seconds,
    )  # fmt: skip


def _read_store(server: Server, url: str, cache: Path) -> tuple[History, dict[str, set[str]]]:
    """What a reader on a machine of its own sees, and the marks of all objects, also of those that do not count."""
    with on_machine(server.env, cache):
        with store_at(folder_of(url)).view() as data:
            return _read_folder(data), marks(objects(Bucket.open(url)))


def _read_folder(data: Path) -> History:
    rows = [row for _, own in history.read(data, HOME) for row in own]
    return History(rows, set().union(*marks(files(data)).values()))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--server", choices=sorted(STARTS), action="append", help="default: all that are here"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument(
        "--others", type=int, default=40, help="faults of the other kinds: slow, outlived, late writers"
    )
    parser.add_argument(
        "--share", type=float, default=0.02, help="share of the requests that get a fault by chance"
    )
    parser.add_argument("--folder", type=Path, help="where the disks and logs go; kept")
    parser.add_argument("--quiet", action="store_true", help="print the reports only")
    a = parser.parse_args()
    top = a.folder or Path(tempfile.mkdtemp(prefix="factstream-buckets-"))
    for name in a.server or ("moto", "seaweedfs", "azurite"):
        folder = top / name
        try:
            server = start(name, folder / "server")
        except Missing as error:
            print(f"{name}: not run: {error}")
            continue
        try:
            begin = time.monotonic()

            def say(line: str, begin: float = begin) -> None:
                if not a.quiet:
                    print(f"{time.monotonic() - begin:6.0f} s  {line}", flush=True)

            report = crash(server, f"{server.url}/crashes", folder, a.seed, a.kills, a.others, a.share, say)
        finally:
            server.stop()
        print(f"{name}, seed {a.seed}:\n{report}", flush=True)
        report.check()
    return 0


if __name__ == "__main__":
    sys.exit(main())
