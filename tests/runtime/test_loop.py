"""The loop that the workers share, on the embedded broker: when it commits, and what becomes of a failure."""

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaConsumer, TopicPartition

from pipeline.model.errors import ModelError
from schemas.topics import FACTS
from tests.conftest import wait_until
from workers.kafka.admin import ensure_topics
from workers.kafka.clients import KafkaSettings, Producer
from workers.runtime import embedded_broker as broker
from workers.runtime import loop

ROOT = Path(__file__).parent.parent.parent


class Recorder:
    """A worker that notes what it is told, and does with a batch what the test says."""

    name = "recorder"
    topics: Sequence[str] = (FACTS,)

    def __init__(self, process: Callable[["Recorder", list[Any]], loop.Done | None] | None = None) -> None:
        self.calls: list[str] = []
        self.values: list[bytes] = []
        self.partitions: set[int] = set()
        self.idles = 0
        self._process = process

    def start(self, consumer: KafkaConsumer, topic_ids: dict[str, str]) -> None:
        self.consumer, self.topic_ids = consumer, topic_ids

    def assigned(self, partitions: list[TopicPartition]) -> None:
        self.calls.append("assigned")
        self.partitions |= {tp.partition for tp in partitions}

    def revoked(self, partitions: list[TopicPartition]) -> None:
        self.calls.append("revoked")
        self.partitions -= {tp.partition for tp in partitions}

    def process(self, records: dict[TopicPartition, list[Any]]) -> loop.Done:
        self.calls.append("process")
        batch = [record for polled in records.values() for record in polled]
        done = self._process(self, batch) if self._process else None
        self.values += [record.value for record in batch]
        return done or loop.Done({"seen": len(batch)})

    def idle(self) -> None:
        self.idles += 1

    def ready(self) -> dict[str, str | int]:
        return {"memories": 3}

    def close(self) -> None:
        self.calls.append("closed")


class Running:
    """A loop on a thread of the test's process."""

    def __init__(self, worker: loop.Worker, settings: KafkaSettings, data: Path) -> None:
        self.stop, self.code = threading.Event(), -1
        self.thread = threading.Thread(target=self._run, args=(worker, settings, data))
        self.thread.start()

    def _run(self, worker: loop.Worker, settings: KafkaSettings, data: Path) -> None:
        self.code = loop.run(worker, settings, data, self.stop, poll_ms=100, sleep=lambda seconds: None)

    def end(self) -> int:
        self.stop.set()
        return self.join()

    def join(self) -> int:
        self.thread.join(60)
        assert not self.thread.is_alive()
        return self.code


@pytest.fixture
def run(settings: KafkaSettings, tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """Start loops, which are stopped when the test ends, however it ends."""
    started: list[Running] = []

    def start(worker: loop.Worker, on: KafkaSettings = settings) -> Running:
        started.append(Running(worker, on, tmp_path))
        return started[-1]

    yield start
    for running in started:
        running.end()


def publish(settings: KafkaSettings, *values: bytes) -> None:
    ensure_topics(settings)
    producer: Producer = settings.producer()
    for value in values:
        producer.send(FACTS, value, partition=0)
    producer.flush_or_raise()
    producer.close()


def committed(settings: KafkaSettings, worker: Recorder, partition: int = 0) -> int | None:
    admin = settings.admin()
    tp = TopicPartition(settings.topic(FACTS), partition)
    group = settings.group(worker.name)
    found = admin.list_group_offsets({group: [tp]}).get(group, {}).get(tp)
    admin.close()
    return None if found is None or found.offset < 0 else int(found.offset)


def test_commits_after_the_batch_and_not_before(settings: KafkaSettings, run: Callable[..., Running]) -> None:
    publish(settings, b"a", b"b")
    seen: list[int | None] = []

    def process(worker: Recorder, batch: list[Any]) -> None:
        seen.append(committed(settings, worker))

    worker = Recorder(process)
    running = run(worker)
    wait_until(lambda: committed(settings, worker) == 2)
    assert seen == [None] and worker.values == [b"a", b"b"]
    wait_until(lambda: worker.idles > 1)
    assert worker.topic_ids == ensure_topics(settings)
    assert running.end() == 0
    assert worker.calls == ["assigned", "process", "closed"]


def test_a_worker_with_records_in_hand_is_called_again_and_commits_what_it_says(
    settings: KafkaSettings, run: Callable[..., Running]
) -> None:
    publish(settings, b"a", b"b", b"c")
    seen: list[int | None] = []

    class Ahead(Recorder):
        """Has three records in hand, and one more of them done at each call."""

        unfinished = False
        finished = 0

        def process(self, records: dict[TopicPartition, list[Any]]) -> loop.Done:
            seen.append(committed(settings, self))
            done = super().process(records)
            self.unfinished = len(self.values) > self.finished + 1
            self.finished += 1 if len(self.values) == 3 else 0
            where = TopicPartition(settings.topic(FACTS), 0)
            return loop.Done(done.fields, {where: self.finished} if self.finished else {}, ahead=True)

    worker = Ahead()
    running = run(worker)
    wait_until(lambda: committed(settings, worker) == 3)
    wait_until(lambda: worker.idles > 0)
    assert running.end() == 0
    assert worker.values == [b"a", b"b", b"c"], "what is in hand is not read again"
    assert seen[-3:] == [None, 1, 2] and worker.calls.count("process") == len(seen)


def test_a_worker_with_much_to_do_between_its_polls_joins_all_the_same(
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


@pytest.mark.parametrize("alone", [True, False])
def test_the_group_is_joined_while_the_model_is_loaded_where_nobody_else_is_in_it(
    settings: KafkaSettings, run: Callable[..., Running], monkeypatch: pytest.MonkeyPatch, alone: bool
) -> None:
    publish(settings, b"a", b"b")
    joined = threading.Event()
    assigned = loop._Rebalances.on_partitions_assigned

    def tell(rebalances: Any, partitions: Any) -> None:
        assigned(rebalances, partitions)
        joined.set()

    class Loading(Recorder):
        def load(self, alone: bool) -> None:
            self.before = joined.wait(30 if alone else 1)
            self.calls.append(f"loaded {alone}")

        def start(self, *told: Any) -> None:
            self.calls.append("started")
            super().start(*told)

    monkeypatch.setattr(loop._Rebalances, "on_partitions_assigned", tell)
    monkeypatch.setenv(loop.ALONE, "1" if alone else "")
    worker = Loading()
    running = run(worker)
    wait_until(lambda: committed(settings, worker) == 2)
    assert worker.before == alone and worker.values == [b"a", b"b"]
    assert running.end() == 0
    assert worker.calls == [f"loaded {alone}", "started", "assigned", "process", "closed"]
    assert loop.ALONE not in os.environ


def test_a_model_that_cannot_be_loaded_ends_the_process_and_leaves_the_group(
    settings: KafkaSettings,
    run: Callable[..., Running],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Broken(Recorder):
        def load(self, alone: bool) -> None:
            raise ModelError("there is no folder x")

    monkeypatch.setenv(loop.ALONE, "1")
    assert run(Broken()).join() == 1
    (failed,) = [record for record in caplog.records if record.getMessage() == "failed"]
    assert failed.__dict__["fields"]["reason"] == "there is no folder x"
    worker = Recorder()
    run(worker)
    wait_until(lambda: len(worker.partitions) == 4)


def test_a_failed_batch_comes_again_after_a_restart(
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


def test_retry_drops_and_takes_the_whole_batch_again(
    settings: KafkaSettings, run: Callable[..., Running]
) -> None:
    publish(settings, b"a", b"b")

    def fenced_once(worker: Recorder, batch: list[Any]) -> None:
        if worker.calls.count("process") == 1:
            raise loop.Retry("somebody else appended")

    worker = Recorder(fenced_once)
    run(worker)
    wait_until(lambda: committed(settings, worker) == 2)
    assert worker.calls == ["assigned", "process", "revoked", "assigned", "process"]
    assert worker.values == [b"a", b"b"]


def test_gives_up_in_the_end_with_the_reason(
    settings: KafkaSettings, run: Callable[..., Running], caplog: pytest.LogCaptureFixture
) -> None:
    publish(settings, b"a")

    def fenced(worker: Recorder, batch: list[Any]) -> None:
        raise loop.Retry("somebody else appended")

    worker = Recorder(fenced)
    assert run(worker).join() == 1
    assert worker.calls.count("process") == loop.MAX_FAILURES + 1
    assert "somebody else appended" in caplog.records[-1].__dict__["fields"]["reason"]
    assert committed(settings, worker) is None


def test_a_part_of_a_batch_can_be_done(settings: KafkaSettings, run: Callable[..., Running]) -> None:
    publish(settings, b"a", b"b", b"c")

    def first_only(worker: Recorder, batch: list[Any]) -> loop.Done:
        tp = TopicPartition(batch[0].topic, batch[0].partition)
        del batch[1:]
        return loop.Done({}, offsets={tp: batch[0].offset + 1})

    worker = Recorder(first_only)
    run(worker)
    wait_until(lambda: committed(settings, worker) == 3)
    assert worker.values == [b"a", b"b", b"c"]
    assert worker.calls.count("process") == 3


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


def test_topics_made_anew_end_the_process(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
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
    assert reasons == ["the topics were made anew; this worker must start anew"]


SLOW_WORKER = """
import sys, time
from pathlib import Path
from tests.runtime.test_loop import Recorder
from workers.observe import log
from workers.runtime import loop
from workers.kafka.clients import KafkaSettings

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


def test_a_killed_worker_loses_nothing(
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


def test_sigterm_lets_the_batch_end_and_commits_it(settings: KafkaSettings, tmp_path: Path) -> None:
    publish(settings, b"a", b"b")
    with start_slow_worker(settings, tmp_path, 1) as process:
        assert process.stdout and process.stderr
        assert process.stdout.readline() == "took 2\n"
        assert (tmp_path / "heartbeat-recorder").exists()
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 0 and out == "did 2\n"
    assert committed(settings, Recorder()) == 2
    lines = [json.loads(line) for line in err.splitlines()]
    assert [line["event"] for line in lines] == ["assigned", "ready", "batch", "stopped"]
    assert (lines[2]["worker"], lines[2]["records"], lines[2]["seen"]) == ("recorder", 2, 2)
    assert not (tmp_path / "heartbeat-recorder").exists()


def test_readiness_is_told_once_after_the_assignment(
    settings: KafkaSettings, run: Callable[..., Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    read, write = os.pipe()
    monkeypatch.setenv(loop.READY_FD, str(write))
    worker = Recorder()
    run(worker)
    with os.fdopen(read) as pipe:
        assert pipe.read() == 'ready {"memories": 3}\n'  # to its end: the worker closes it
    assert worker.partitions
    assert loop.READY_FD not in os.environ


def test_a_message_cannot_forge_a_log_line(capsys: pytest.CaptureFixture[str]) -> None:
    from workers.observe import log

    logger = logging.getLogger("factstream")
    before = logger.handlers, logger.level, logger.propagate
    try:
        for log_format in ("text", "json"):
            log.setup("encoder", log_format)
            log.line("batch", text="a\n2026 writer batch \ud800\x1b[2J", count=3, share=0.25, level="mine")
    finally:
        logger.handlers, logger.level, logger.propagate = before
    text, as_json = capsys.readouterr().err.splitlines()
    assert (
        "encoder batch text=" in text
        and "\x1b" not in text
        and text.endswith("count=3 share=0.25 level=mine")
    )
    parsed = json.loads(as_json)
    assert parsed["event"] == "batch" and parsed["count"] == 3 and parsed["text"].startswith("a\n2026")
