"""A cluster of three nodes with two replicas in sync, which loses one node after the other under load."""

from pathlib import Path

import pytest

from tests.conftest import session_ms
from tests.faults.crash import compare
from tests.faults.facts import make_facts
from tests.faults.plan import Fault
from tests.helpers.apache import MISSING, SCRIPT
from tests.helpers.cluster import Cluster


@pytest.mark.kafka
@pytest.mark.timeout(400)
def test_losing_one_node_then_another_loses_nothing(
    request: pytest.FixtureRequest, tmp_path: Path, gpt2: Path
) -> None:
    if not request.config.getoption("--kafka"):
        pytest.skip("needs Apache Kafka: make test-kafka ON_KAFKA=tests/faults/test_cluster.py")
    if not SCRIPT.exists():
        pytest.skip(MISSING)
    cluster = Cluster("three", tmp_path / "three")
    try:
        kill = Fault("kill", "writer", "before the commit")
        plan = [Fault("node", after=1), kill, Fault("node", after=2)]
        compare(cluster, tmp_path, gpt2, make_facts(9, 600), plan, 25.0, 9, session_ms())
    finally:
        cluster.stop()
