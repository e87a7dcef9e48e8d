"""Crashes of writers on an object store: a short run; the long one is `make store-crashes`."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.buckets.conftest import fresh_url
from tests.buckets.crashes import crash
from tests.buckets.plan import KINDS, plan_faults
from tests.buckets.servers import Server
from tests.buckets.writer import STEPS


def test_the_plan_has_every_step_and_kind_and_depends_on_the_seed() -> None:
    plan = plan_faults(1, kills=len(STEPS), others=60)
    assert plan == plan_faults(1, kills=len(STEPS), others=60) != plan_faults(2, kills=len(STEPS), others=60)
    assert {fault.step for fault in plan if fault.kind == "kill"} == set(STEPS)
    assert {fault.kind for fault in plan} == set(KINDS)


@pytest.mark.parametrize(
    ("name", "kills", "others"),
    [
        ("moto", 8, 4),
        pytest.param("moto", len(STEPS), 20, marks=pytest.mark.slow),
        pytest.param("seaweedfs", len(STEPS), 20, marks=pytest.mark.slow),
        pytest.param("azurite", len(STEPS), 20, marks=pytest.mark.slow),
    ],
)
@pytest.mark.timeout(600)
def test_crashes_lose_nothing_and_bring_nothing_back(
    servers: Callable[[str], Server], tmp_path: Path, name: str, kills: int, others: int
) -> None:
    server = servers(name)
    report = crash(server, fresh_url(server), tmp_path, seed=24, kills=kills, others=others, share=0.05)
    print(report)
    report.check()
    assert report.done.total() == kills + others and report.faults.total() > 0
