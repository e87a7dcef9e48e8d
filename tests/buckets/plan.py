"""The plan of a crash run on a store: which faults happen and at which step, all from a seed."""

import itertools
import random
from typing import NamedTuple

from tests.buckets.writer import STEPS


class Fault(NamedTuple):
    """One fault of a writer. `step` is one of STEPS, or the path of the request of which the proxy makes the fault."""

    kind: str
    step: str
    after: int = 0  # how often the step is passed first

    def __str__(self) -> str:
        return f"{self.kind}: {self.step}"


KINDS = {
    "kill": "SIGKILL at a step",
    "stand still": "a writer stands still at a step; another takes over, merges and erases; then the first goes on",
    "kill, PUT landed": "the proxy passes a PUT on, and the writer is killed before it has the answer",
    "kill, PUT lands late": "the writer is killed while its PUT is on its way, and lands when the next one works",
    "slow": "a PUT takes longer than the takeover by another writer, and lands while that one works",
}
"""Kinds of faults, and what each means."""
PUTS = {
    "version": r"partition=[0-9]+/[0-9]{10}\.parquet$", "manifest": r"manifest-[0-9]{10}\.json$",
    "rewritten file": r"[0-9]{10}-[0-9a-f]{32}/", "answer": r"generations/",
}  # fmt: skip
"""What is PUT, and the pattern of its path."""


def plan_faults(seed: int, kills: int, others: int) -> list[Fault]:
    """So many kills, which visit every step, and as many faults of every other kind and PUT as `others` says, shuffled."""
    dice = random.Random(seed)
    steps = list(STEPS)
    dice.shuffle(steps)
    plan = [
        Fault("kill", step, dice.choice((0, 0, 1, 2)))
        for step in itertools.islice(itertools.cycle(steps), kills)
    ]
    more = [Fault("stand still", step) for step in STEPS]
    more += [Fault(kind, put) for kind in KINDS if kind not in ("kill", "stand still") for put in PUTS]
    dice.shuffle(more)
    plan += itertools.islice(itertools.cycle(more), others)
    dice.shuffle(plan)
    return plan
