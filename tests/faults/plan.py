"""The plan of a crash run: which faults happen, to which worker and at which step, all from a seed."""

import itertools
import random
from typing import NamedTuple

from tests.faults.crash_worker import STARTING, STEPS

BROKER_FAULTS = ("restart", "wipe", "node")


class Fault(NamedTuple):
    """One fault. Without a step, a kill or a pause strikes at any moment."""

    kind: str  # kill, pause, add, remove, restart, wipe or node
    worker: str = ""
    step: str = ""
    after: int = 0  # how often the worker passes the step first; or the node that is lost, 0 for any


def plan_faults(
    seed: int,
    kills: int = 0,
    pauses: int = 0,
    rebalances: int = 0,
    restarts: int = 0,
    wipes: int = 0,
    nodes: int = 0,
) -> list[Fault]:
    """So many faults of each kind, shuffled. Kills and pauses visit every step, and moments between the steps."""
    dice = random.Random(seed)
    steps = [(worker, step) for worker, names in STEPS.items() for step in ("", *names)]
    steps += [("writer", step) for step in STARTING]
    dice.shuffle(steps)
    kinds = ["kill"] * kills + ["pause"] * pauses
    plan = [
        Fault(kind, *step, dice.choice((0, 0, 0, 1, 2)) if step[1] not in STARTING else dice.randrange(3))
        for kind, step in zip(kinds, itertools.cycle(steps), strict=False)
    ]
    plan += [Fault(("add", "remove")[n % 2], dice.choice(list(STEPS))) for n in range(rebalances)]
    plan += [Fault("restart")] * restarts + [Fault("wipe")] * wipes + [Fault("node")] * nodes
    dice.shuffle(plan)
    return plan
