"""Static members on Apache Kafka: a restart moves no partition; a worker whose name is taken ends."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.conftest import wait_until
from tests.runtime.recorder import Recorder, Running, publish
from workers.kafka.config import KafkaSettings

pytestmark = pytest.mark.kafka


def test_restart_of_a_static_member_moves_no_partition(
    apache: KafkaSettings, run: Callable[..., Running]
) -> None:
    publish(apache)
    one, other = replace(apache, instance="one"), replace(apache, instance="other")
    stays, leaves, returns = Recorder(), Recorder(), Recorder()
    run(stays, other)
    running = run(leaves, one)
    wait_until(lambda: len(stays.partitions) == len(leaves.partitions) == 2, 60)
    before = list(stays.calls)
    assert running.end() == 0
    run(returns, one)
    wait_until(lambda: returns.partitions == leaves.partitions, 60)
    assert stays.calls == before, "a member that leaves and returns costs the others two rebalances"


def test_a_worker_whose_name_is_taken_ends_with_one_line(
    apache: KafkaSettings, run: Callable[..., Running], caplog: pytest.LogCaptureFixture
) -> None:
    publish(apache)
    named = replace(apache, instance="twin")
    first, second = Recorder(), Recorder()
    running = run(first, named)
    wait_until(lambda: first.partitions == {0, 1, 2, 3}, 60)
    run(second, named)
    wait_until(lambda: second.partitions == {0, 1, 2, 3}, 60)
    publish(apache, b"a")
    assert running.join() == 1
    (failed,) = (record for record in caplog.records if record.getMessage() == "failed")
    assert "FACTSTREAM_INSTANCE" in failed.__dict__["fields"]["reason"] and failed.exc_info is None
    wait_until(lambda: second.values == [b"a"])
