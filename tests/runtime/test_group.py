"""A worker in its consumer group: joining, rebalances, and leaving."""

import os
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from kafka.coordinator.consumer import ConsumerCoordinator

from tests.conftest import wait_until
from tests.runtime.recorder import Recorder, Running, committed, publish
from workers.kafka import KafkaConsumer
from workers.kafka.config import KafkaSettings
from workers.observe.health import Health
from workers.runtime import loop
from workers.runtime.group import Rebalances
from workers.runtime.ready import ALONE
from workers.runtime.signals import Stop


def test_worker_that_is_busy_between_polls_joins_its_group(
    settings: KafkaSettings, run: Callable[..., Running]
) -> None:
    """A join that ends outside of a poll is lost on the client, and begins again."""

    class Busy(Recorder):
        def idle(self) -> None:
            assert "assigned" in self.calls
            super().idle()
            time.sleep(1)  # of every 1.1 s

    first, second = Busy(), Busy()
    running = run(first)
    wait_until(lambda: first.idles)
    other = run(second)
    wait_until(lambda: first.partitions and second.partitions and not first.partitions & second.partitions)
    assert running.end() == other.end() == 0


def test_join_that_the_group_answers_after_the_poll_is_over_is_taken_by_the_next(
    settings: KafkaSettings, run: Callable[..., Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    """New metadata begins the join, which the client forgets at the assignment: before the group's answer."""
    join = ConsumerCoordinator._do_join_and_sync_async

    async def slow(self: ConsumerCoordinator) -> bytes:
        assignment: bytes = await join(self)
        await self._net.sleep(0.5)
        return assignment

    worker = Recorder()
    running = run(worker)
    wait_until(lambda: worker.idles)
    monkeypatch.setattr(ConsumerCoordinator, "_do_join_and_sync_async", slow)
    worker.consumer._coordinator._assignment_snapshot = {}
    wait_until(lambda: worker.calls == ["assigned", "revoked", "assigned"])
    publish(settings, b"a")
    wait_until(lambda: worker.values == [b"a"])
    assert running.end() == 0


def test_worker_that_cannot_join_its_group_ends_with_the_reason(
    settings: KafkaSettings,
    run: Callable[..., Running],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(Rebalances, "on_partitions_assigned", lambda *_: None)
    monkeypatch.setattr(loop, "JOIN_TIMEOUT_S", 3.0)
    assert run(Recorder()).join() == 1
    (failed,) = [record for record in caplog.records if record.getMessage() == "failed"]
    assert "after 3 s of joining" in failed.__dict__["fields"]["reason"]


def test_worker_alone_takes_all_partitions_and_goes_on_from_its_commits(
    settings: KafkaSettings, run: Callable[..., Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(settings, b"a", b"b")
    monkeypatch.setattr(KafkaConsumer, "subscribe", lambda *_, **__: pytest.fail("it must not join"))
    monkeypatch.setenv(ALONE, "1")
    worker = Recorder()
    running = run(worker)
    wait_until(lambda: committed(settings, worker) == 2)
    assert ALONE not in os.environ and worker.partitions == {0, 1, 2, 3} and worker.values == [b"a", b"b"]
    assert worker.calls[0] == "assigned" and running.end() == 0
    publish(settings, b"c")
    monkeypatch.setenv(ALONE, "1")
    again = Recorder()
    running = run(again)
    wait_until(lambda: committed(settings, again) == 3)
    assert again.values == [b"c"] and running.end() == 0


def test_partitions_move_to_a_new_member_and_back(
    settings: KafkaSettings, run: Callable[..., Running]
) -> None:
    first, second = Recorder(), Recorder()
    run(first)
    wait_until(lambda: first.partitions == {0, 1, 2, 3})
    joined = run(second)
    wait_until(lambda: len(first.partitions) == len(second.partitions) == 2)
    assert first.partitions | second.partitions == {0, 1, 2, 3}
    assert joined.end() == 0  # it leaves the group: nobody waits for its session
    wait_until(lambda: first.partitions == {0, 1, 2, 3})
    publish(settings, b"a")
    wait_until(lambda: first.values == [b"a"])


def test_sticky_workers_keep_their_partitions_when_another_leaves(
    settings: KafkaSettings, run: Callable[..., Running]
) -> None:
    class Sticky(Recorder):
        sticky = True

    publish(settings, b"a")
    workers = [Sticky(), Sticky(), Sticky()]
    stops = [run(worker) for worker in workers]
    wait_until(lambda: sorted(len(worker.partitions) for worker in workers) == [1, 1, 2], 60)
    leaves = max(range(3), key=lambda n: len(workers[n].partitions))
    before = [set(worker.partitions) for worker in workers]
    assert stops[leaves].end() == 0
    stay = [n for n in range(3) if n != leaves]
    wait_until(lambda: all(len(workers[n].partitions) == 2 for n in stay), 60)
    assert all(before[n] < workers[n].partitions for n in stay), "by range one of them would change its own"


def test_a_worker_too_many_is_told_that_it_has_nothing(
    settings: KafkaSettings, run: Callable[..., Running]
) -> None:
    publish(replace(settings, partitions=1), b"a")
    first, second = Recorder(), Recorder()
    run(first)
    wait_until(lambda: first.calls)
    run(second)
    wait_until(lambda: "assigned" in second.calls and "revoked" in first.calls, 60)
    wait_until(lambda: len(first.partitions | second.partitions) == 1)
    assert not (first.partitions and second.partitions)


@pytest.mark.parametrize("loads", [True, False])
def test_a_worker_is_ready_once_it_has_loaded_what_it_was_assigned(
    settings: KafkaSettings, run: Callable[..., Running], tmp_path: Path, loads: bool
) -> None:
    health, done = Health(), threading.Event()

    class Loading(Recorder):
        @property
        def loading(self) -> bool:
            return loads and not done.is_set()

    publish(settings, b"a")
    worker, stop = Loading(), Stop()
    thread = threading.Thread(
        target=loop.run, args=(worker, settings, tmp_path, stop, health), kwargs={"poll_ms": 50}
    )
    thread.start()
    try:
        wait_until(lambda: worker.values == [b"a"], 60)
        wait_until(lambda: worker.idles > 2)
        assert health.ready is not loads, "it may process, and is not ready"
        done.set()
        wait_until(lambda: health.ready)
    finally:
        stop.set()
        thread.join(60)
