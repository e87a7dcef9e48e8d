"""A cluster of three nodes, three replicas and two of them in sync: it loses one node after the other under load.

Collected only with --kafka (`make test-kafka ON_KAFKA=tests/faults/test_cluster.py`): the embedded broker is one node.
"""

from pathlib import Path

import pytest

from tests.conftest import session_ms
from tests.faults.crash import compare
from tests.faults.facts import make_facts
from tests.faults.plan import Fault
from tests.helpers.cluster import Cluster


@pytest.mark.timeout(400)
def test_losing_one_node_then_another_loses_nothing(tmp_path: Path, gpt2: Path) -> None:
    cluster = Cluster("three", tmp_path / "three")
    try:
        kill = Fault("kill", "writer", "before the commit")
        plan = [Fault("node", after=1), kill, Fault("node", after=2)]
        compare(cluster, tmp_path, gpt2, make_facts(9, 600), plan, 25.0, 9, session_ms())
    finally:
        cluster.stop()
