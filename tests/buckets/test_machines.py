"""Two machines with separate disks, one Apache Kafka and one store: nothing lost, twice, or left."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.ingest.encoder import Encoder
from schemas.fact import Fact
from tests.buckets.conftest import fresh_url
from tests.buckets.contents import decoded, files
from tests.buckets.machines import make_erasing_facts, rehearse
from tests.buckets.servers import Server
from tests.buckets.writer import on_machine
from tests.conftest import session_ms
from tests.faults.crash_run import CrashRun
from tests.faults.report import check
from tests.helpers.apache import MISSING, SCRIPT
from tests.helpers.cluster import Cluster
from workers.kafka.config import KafkaSettings

FACTS = 600


@pytest.mark.kafka
@pytest.mark.timeout(900)
def test_partitions_move_between_two_machines_under_load(
    request: pytest.FixtureRequest, servers: Callable[[str], Server], tmp_path: Path, gpt2: Path
) -> None:
    if not request.config.getoption("--kafka"):
        pytest.skip("needs Apache Kafka: make test-kafka ON_KAFKA=tests/buckets/test_machines.py")
    if not SCRIPT.exists():
        pytest.skip(MISSING)
    server, facts = servers(os.environ.get("STORE_SERVER", "moto")), make_erasing_facts(24, FACTS)
    cluster = Cluster("apache", tmp_path / "kafka")
    try:
        with on_machine({}, tmp_path / "calm-cache"):
            Encoder.load(str(gpt2), "cpu")  # calibrates the model: other machines need the same file
            settings = KafkaSettings(cluster.bootstrap, "calm.", session_timeout_ms=session_ms())
            run = CrashRun(cluster, settings, tmp_path / "calm", gpt2)
            try:
                calm = run(facts, [], 1e9, 24)
            finally:
                run.stop()
        for name in ("one", "two"):
            shutil.copytree(tmp_path / "calm-cache" / "calibrations", tmp_path / name / "calibrations")
        settings = KafkaSettings(cluster.bootstrap, "two.", session_timeout_ms=session_ms())
        seen = rehearse(server, fresh_url(server), tmp_path, settings, gpt2, facts, rate=6.0)
    finally:
        cluster.stop()
    check(seen.report, calm)
    assert len(seen.digests) == 1 and calm.digest in seen.digests.pop()
    kept = "".join(decoded(name, body) for name, body in files(tmp_path / "calm" / "data").items())
    erased = {fact.text for _, fact in facts if isinstance(fact, Fact) and fact.text not in kept}
    assert len(erased) > 10 and any(name.startswith("generations/") for name in seen.texts)
    left = {name: text for name, body in seen.texts.items() for text in erased if text in body}
    assert not left, f"erased texts are left: {left}"
