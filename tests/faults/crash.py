"""Crashes under load: workers are killed, paused, added and removed, and the broker restarted.

Meanwhile facts are streamed. Afterwards nothing may be lost, nothing decided twice, the changelog must say what the history says, and the digest must
be that of an undisturbed run on the same facts. The facts and the faults follow from a seed; the moments do not.

    python -m tests.faults.crash --broker apache --kills 100 --facts 6000
    python -m tests.faults.crash --broker embedded --restarts 10 --rebalances 20 --pauses 10
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.faults.crash_run import CrashRun
from tests.faults.facts import Pair, make_facts
from tests.faults.plan import Fault, plan_faults
from tests.faults.report import Report, check
from tests.helpers.cluster import Cluster
from workers.kafka.config import KafkaSettings


def compare(
    cluster: Cluster,
    folder: Path,
    model: Path,
    facts: Sequence[Pair],
    plan: Sequence[Fault],
    rate: float,
    seed: int,
    session_ms: int,
) -> tuple[Report, Report]:
    """An undisturbed run and one with the faults; raises AssertionError unless both have the same memory."""
    reports = []
    for name, faults in (("calm", []), ("crash", plan)):
        settings = KafkaSettings(cluster.bootstrap, f"{folder.name}.{name}.", session_timeout_ms=session_ms)
        run = CrashRun(cluster, settings, folder / name, model)
        try:
            reports.append(run(facts, faults, rate if faults else 1e9, seed))
        finally:
            run.stop()
        print(f"{name}: {reports[-1]}", flush=True)
    calm, stormy = reports
    check(stormy, calm)
    return calm, stormy


def main() -> int:
    from tests.helpers.models import (
        make_gpt2,
    )  # transformers takes seconds to import, and --help does not need it

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--broker", choices=("embedded", "apache", "three"), default="embedded")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--facts", type=int, default=6000)
    parser.add_argument("--rate", type=float, default=25.0, help="facts a second until the last fault")
    for name in ("kills", "pauses", "rebalances", "restarts", "wipes", "nodes"):
        parser.add_argument(f"--{name}", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where the data and logs go; kept")
    a = parser.parse_args()
    folder = a.folder or Path(tempfile.mkdtemp(prefix="factstream-crash-"))
    model = make_gpt2(folder / "model")
    facts = make_facts(a.seed, a.facts)
    plan = plan_faults(a.seed, a.kills, a.pauses, a.rebalances, a.restarts, a.wipes, a.nodes)
    cluster = Cluster(a.broker, folder / "broker")
    try:
        calm, _ = compare(cluster, folder, model, facts, plan, a.rate, a.seed, 1500)
    finally:
        cluster.stop()
    print(
        f"{len(plan)} faults, {a.facts} facts: 0 lost, 0 decided twice, digest {calm.digest[:12]} as without faults"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
