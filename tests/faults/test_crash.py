"""Crashes of every process: short runs in which nothing is lost and nothing counts twice."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import session_ms
from tests.faults.crash import compare
from tests.faults.crash_worker import STARTING, STEPS
from tests.faults.facts import make_facts
from tests.faults.plan import Fault, plan_faults
from tests.helpers.cluster import Cluster

POINTS = sum(len(names) + 1 for names in STEPS.values()) + len(STARTING)
"""Each step of either worker, and any moment in between."""


@pytest.fixture(scope="module")
def cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    kind = "apache" if request.config.getoption("--kafka") else "embedded"
    kind = "foreign" if os.environ.get("KAFKA_BOOTSTRAP") else kind
    running = Cluster(kind, tmp_path_factory.mktemp("crash"))
    yield running
    running.stop()


def test_the_plan_of_faults_has_every_step_and_depends_on_the_seed() -> None:
    plan = plan_faults(1, kills=POINTS, pauses=2, rebalances=4, restarts=3)
    assert (
        plan
        == plan_faults(1, kills=POINTS, pauses=2, rebalances=4, restarts=3)
        != plan_faults(2, kills=POINTS)
    )
    places = {(fault.worker, fault.step) for fault in plan if fault.kind == "kill"}
    assert places == {(worker, step) for worker, names in STEPS.items() for step in ("", *names)} | {
        ("writer", step) for step in STARTING
    }
    assert make_facts(1, 300) == make_facts(1, 300) != make_facts(2, 300)


@pytest.mark.slow
@pytest.mark.timeout(500)
def test_kills_at_every_step_pauses_and_rebalances_lose_nothing(
    cluster: Cluster, tmp_path: Path, gpt2: Path
) -> None:
    plan = plan_faults(38, kills=POINTS, pauses=3, rebalances=3)
    calm, stormy = compare(cluster, tmp_path, gpt2, make_facts(38, 2000), plan, 25.0, 38, session_ms())
    assert stormy.done["kill"] == POINTS and stormy.done["pause"] == 3
    # The stream has facts of every outcome.
    assert {"learned", "superseded", "reinforced", "duplicate", "outdated", "forgotten"} <= set(calm.outcomes)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_dead_and_a_wiped_broker_lose_nothing(cluster: Cluster, tmp_path: Path, gpt2: Path) -> None:
    """The embedded broker loses its topics in either case; Apache Kafka only when it is wiped."""
    if cluster.kind == "foreign":
        pytest.skip("the cluster at KAFKA_BOOTSTRAP is somebody else's: nothing here may stop it")
    plan = [Fault("restart"), Fault("kill", "writer", "after the rename"), Fault("wipe")]
    _, stormy = compare(cluster, tmp_path, gpt2, make_facts(8, 500), plan, 25.0, 8, session_ms())
    assert stormy.done["restart"] == stormy.done["wipe"] == 1
