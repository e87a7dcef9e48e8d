"""The loop on the embedded broker: commits, retries, readiness, and a clean end."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from kafka import TopicPartition

from schemas.topics import FACTS
from tests.conftest import wait_until
from tests.runtime.recorder import Recorder, Running, committed, publish
from workers.kafka.admin import ensure_topics
from workers.kafka.config import KafkaSettings
from workers.runtime import embedded_broker as broker
from workers.runtime import loop
from workers.runtime.ready import READY_FD
from workers.runtime.worker import Done, Retry

ROOT = Path(__file__).parent.parent.parent


def test_offsets_are_committed_after_the_batch(settings: KafkaSettings, run: Callable[..., Running]) -> None:
    publish(settings, b"a", b"b")
    seen: list[int | None] = []

    def process(worker: Recorder, batch: list[Any]) -> None:
        seen.append(committed(settings, worker))

    worker = Recorder(process)
    running = run(worker)
    wait_until(lambda: committed(settings, worker) == 2)
    assert seen == [None] and worker.values == [b"a", b"b"]
    wait_until(lambda: worker.idles > 1)
    assert worker.topic_ids == ensure_topics(settings, [FACTS])
    assert running.end() == 0
    assert worker.calls == ["assigned", "process", "closed"]


def test_unfinished_worker_is_called_again_and_commits_its_own_offsets(
    settings: KafkaSettings, run: Callable[..., Running]
) -> None:
    publish(settings, b"a", b"b", b"c")
    seen: list[int | None] = []

    class Ahead(Recorder):
        """Has three records in hand, and one more of them done at each call."""

        unfinished = False
        finished = 0

        def process(self, records: dict[TopicPartition, list[Any]]) -> Done:
            seen.append(committed(settings, self))
            done = super().process(records)
            self.unfinished = len(self.values) > self.finished + 1
            self.finished += 1 if len(self.values) == 3 else 0
            where = TopicPartition(settings.topic(FACTS), 0)
            return Done(done.fields, {where: self.finished} if self.finished else {}, ahead=True)

    worker = Ahead()
    running = run(worker)
    wait_until(lambda: committed(settings, worker) == 3)
    wait_until(lambda: worker.idles > 0)
    assert running.end() == 0
    assert worker.values == [b"a", b"b", b"c"], "what is in hand is not read again"
    assert seen[-3:] == [None, 1, 2] and worker.calls.count("process") == len(seen)


def test_failed_batch_is_read_again_after_a_restart(
    settings: KafkaSettings, run: Callable[..., Running], caplog: pytest.LogCaptureFixture
) -> None:
    publish(settings, b"a", b"b")

    def fail(worker: Recorder, batch: list[Any]) -> None:
        raise OSError("the disk is full")

    worker = Recorder(fail)
    assert run(worker).join() == 1
    assert committed(settings, worker) is None
    (failed,) = [record for record in caplog.records if record.getMessage() == "failed"]
    assert failed.__dict__["fields"]["reason"] == "OSError: the disk is full"
    again = Recorder()
    run(again)
    wait_until(lambda: again.values == [b"a", b"b"])


def test_retry_reloads_partitions_and_reads_the_batch_again(
    settings: KafkaSettings, run: Callable[..., Running]
) -> None:
    publish(settings, b"a", b"b")

    def fenced_once(worker: Recorder, batch: list[Any]) -> None:
        if worker.calls.count("process") == 1:
            raise Retry("somebody else appended")

    worker = Recorder(fenced_once)
    run(worker)
    wait_until(lambda: committed(settings, worker) == 2)
    assert worker.calls == ["assigned", "process", "revoked", "assigned", "process"]
    assert worker.values == [b"a", b"b"]


def test_gives_up_after_too_many_retries_with_the_reason(
    settings: KafkaSettings, run: Callable[..., Running], caplog: pytest.LogCaptureFixture
) -> None:
    publish(settings, b"a")

    def fenced(worker: Recorder, batch: list[Any]) -> None:
        raise Retry("somebody else appended")

    worker = Recorder(fenced)
    assert run(worker).join() == 1
    assert worker.calls.count("process") == loop.MAX_FAILURES + 1
    assert "somebody else appended" in caplog.records[-1].__dict__["fields"]["reason"]
    assert committed(settings, worker) is None


def test_part_of_a_batch_can_be_committed(settings: KafkaSettings, run: Callable[..., Running]) -> None:
    publish(settings, b"a", b"b", b"c")

    def first_only(worker: Recorder, batch: list[Any]) -> Done:
        tp = TopicPartition(batch[0].topic, batch[0].partition)
        del batch[1:]
        return Done({}, offsets={tp: batch[0].offset + 1})

    worker = Recorder(first_only)
    run(worker)
    wait_until(lambda: committed(settings, worker) == 3)
    assert worker.values == [b"a", b"b", b"c"]
    assert worker.calls.count("process") == 3


def test_replaced_topics_end_the_process(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = broker.start(broker.free_port(), tmp_path / "broker.log")
    settings = KafkaSettings(first.bootstrap, session_timeout_ms=1500)
    worker = Recorder()
    running = Running(worker, settings, tmp_path)
    try:
        wait_until(lambda: worker.partitions)
        first.process.kill()
        first.process.wait()
        first = broker.start(first.port, tmp_path / "broker.log")
        ensure_topics(replace(settings, connect_timeout_s=2))
        assert running.join() == 1
    finally:
        running.end()
        first.stop()
    reasons = [r.__dict__["fields"]["reason"] for r in caplog.records if r.getMessage() == "failed"]
    assert reasons == ["the topics were deleted and created again; start this worker again"]


SLOW_WORKER = """
import sys, time
from pathlib import Path
from tests.runtime.recorder import Recorder
from workers.observe import log
from workers.runtime import loop
from workers.kafka.config import KafkaSettings

def process(worker, batch):
    print("took", len(batch), flush=True)
    time.sleep(float(sys.argv[2]))
    print("did", len(batch), flush=True)

log.setup("recorder", "json")
sys.exit(loop.run(Recorder(process), KafkaSettings.from_env(), Path(sys.argv[1])))
"""


def start_slow_worker(settings: KafkaSettings, data: Path, seconds: float) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", SLOW_WORKER, str(data), str(seconds)],
        cwd=ROOT,
        env=os.environ | settings.env(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_killed_worker_loses_nothing(
    settings: KafkaSettings, tmp_path: Path, run: Callable[..., Running]
) -> None:
    publish(settings, b"a", b"b")
    with start_slow_worker(settings, tmp_path, 60) as process:
        assert process.stdout
        assert process.stdout.readline() == "took 2\n"
        process.kill()
    worker = Recorder()
    assert committed(settings, worker) is None
    run(worker)
    wait_until(lambda: worker.values == [b"a", b"b"])


def test_sigterm_commits_the_running_batch(settings: KafkaSettings, tmp_path: Path) -> None:
    publish(settings, b"a", b"b")
    with start_slow_worker(settings, tmp_path, 1) as process:
        assert process.stdout and process.stderr
        assert process.stdout.readline() == "took 2\n"
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 0 and out == "did 2\n"
    assert committed(settings, Recorder()) == 2
    lines = [json.loads(line) for line in err.splitlines()]
    assert [line["event"] for line in lines] == ["assigned", "ready", "batch", "stopped"]
    assert (lines[2]["worker"], lines[2]["records"], lines[2]["seen"]) == ("recorder", 2, 2)


def test_readiness_is_reported_once_after_the_assignment(
    settings: KafkaSettings, run: Callable[..., Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    read, write = os.pipe()
    monkeypatch.setenv(READY_FD, str(write))
    worker = Recorder()
    run(worker)
    with os.fdopen(read) as pipe:
        assert pipe.read() == 'ready {"memories": 3}\n'  # to its end: the worker closes it
    assert worker.partitions
    assert READY_FD not in os.environ
