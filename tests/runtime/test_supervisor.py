"""The supervisor, with small scripts in the place of the workers."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from schemas.topics import FACTS
from tests.conftest import runs, wait_until
from workers.kafka.admin import ensure_topics
from workers.kafka.config import KafkaSettings
from workers.runtime import child
from workers.runtime import embedded_broker as broker
from workers.runtime import supervisor as stack
from workers.runtime.child import Deaths
from workers.runtime.signals import Stop

ROOT = Path(__file__).parent.parent.parent
STAND_IN = """
import os, sys, time
from pathlib import Path
from workers.runtime.ready import tell_ready
starts = Path(sys.argv[1])
with starts.open("a") as file:
    file.write(f"{os.getpid()}\\n")
count = len(starts.read_text().split())
"""
WAITS = STAND_IN + "tell_ready({'memories': 2})\ntime.sleep(120)"
DIES_ONCE = STAND_IN + "tell_ready({})\ntime.sleep(120 if count > 1 else 0)\nsys.exit('a bad day')"
DIES_READY = STAND_IN + "tell_ready({})\nsys.exit('no luck')"
DIES_EARLY = STAND_IN + "sys.exit('no such model')"
CONSUMES = """
import os, sys, time
from pathlib import Path
from tests.runtime.recorder import Recorder
from workers.runtime import loop
from workers.kafka.config import KafkaSettings

class Encoder(Recorder):
    name = "encoder"

def process(worker, batch):
    time.sleep(0.2)
    with open(sys.argv[1], "ab") as file:
        file.writelines(record.value + b"\\n" for record in batch)

sys.exit(loop.run(Encoder(process), KafkaSettings.from_env(), Path(os.environ["FACTSTREAM_DATA"]),
max_records=5))
"""


class Up:
    """A stack on a thread of the test's process, on a broker of its own."""

    def __init__(self, data: Path, scripts: dict[str, str], options: dict[str, Any]) -> None:
        self.data, self.stop = data, Stop()
        self.settings = KafkaSettings(f"127.0.0.1:{broker.free_port()}", session_timeout_ms=1500)
        self.said: list[str] = []
        self.error: BaseException | None = None
        self.commands = {
            name: [sys.executable, "-c", script, str(data.parent / f"{name}.starts")]
            for name, script in scripts.items()
        }
        self.options = options
        self.thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            stack.up(
                self.data,
                self.settings,
                self.commands,
                "tiny",
                True,
                self.stop,
                self.said.append,
                **self.options,
            )
        except Exception as error:
            self.error = error

    def start(self) -> None:
        self.thread.start()

    def until_ready(self) -> None:
        self.start()
        wait_until(lambda: self.said or not self.thread.is_alive())
        assert self.said, self.error

    def end(self) -> None:
        self.stop.set()
        self.thread.join(60)
        assert not self.thread.is_alive()

    def starts(self, name: str) -> list[int]:
        """The pids that a worker has had."""
        path = self.data.parent / f"{name}.starts"
        return [int(pid) for pid in path.read_text().split()] if path.exists() else []


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Callable[..., Up]]:
    started: list[Up] = []

    def make(scripts: dict[str, str], **options: Any) -> Up:
        started.append(Up(tmp_path / "data", scripts, options))
        return started[-1]

    yield make
    for running in started:
        if running.thread.ident:
            running.end()


def test_stack_gets_ready_and_stops_with_all_its_processes(up: Callable[..., Up]) -> None:
    running = up({"encoder": WAITS, "writer": WAITS}, as_json=True)
    running.until_ready()
    (line,) = running.said
    told = json.loads(line)
    assert told["ready"] is True and told["model"] == "tiny" and told["memories"] == 2
    assert told["bootstrap"] == running.settings.bootstrap and told["data"] == str(running.data)
    pids = [told["pids"][name] for name in ("encoder", "writer")]
    assert pids == running.starts("encoder") + running.starts("writer")
    assert all(runs(pid) for pid in pids)
    running.end()
    assert running.error is None and len(running.said) == 1
    assert not any(runs(pid) for pid in told["pids"].values())
    (port,) = (port for _, port in running.settings.hosts())
    broker.start(port, running.data / "again.log").stop()  # the port is free: the broker ended too


def test_ready_line_is_readable(up: Callable[..., Up]) -> None:
    running = up({"writer": WAITS})
    running.until_ready()
    where = f"{running.settings.bootstrap}, model tiny, data {running.data}"
    assert running.said == [f"ready: {where}, 2 memories"]


def test_second_stack_on_the_same_folder_is_refused(up: Callable[..., Up]) -> None:
    first, second = up({"writer": WAITS}), up({"writer": WAITS})
    first.until_ready()
    second.start()
    second.thread.join(30)
    assert isinstance(second.error, stack.StackError)
    assert re.search(rf"another `factstream up` \(pid {os.getpid()}\).*--data", str(second.error))
    assert len(first.starts("writer")) == 1 and runs(first.starts("writer")[0])
    first.end()
    third = up({"writer": WAITS})
    third.until_ready()  # the lock went with its holder


def test_dead_worker_is_restarted(up: Callable[..., Up]) -> None:
    running = up({"encoder": DIES_ONCE, "writer": WAITS}, restart_delay=lambda deaths: 0.0)
    running.until_ready()
    wait_until(lambda: len(running.starts("encoder")) == 2)
    running.end()
    assert running.error is None and len(running.starts("writer")) == 1 and len(running.said) == 1
    assert "a bad day" in (running.data / "logs" / "encoder.log").read_text()


def test_gives_up_after_five_restarts_with_the_reason(up: Callable[..., Up]) -> None:
    running = up({"encoder": DIES_READY, "writer": WAITS}, restart_delay=lambda deaths: 0.0)
    running.start()
    running.thread.join(60)
    assert isinstance(running.error, stack.StackError)
    assert re.search(r"the encoder ended 6 times within a minute, .*exit code 1", str(running.error))
    assert str(running.error).endswith("no luck")
    assert len(running.starts("encoder")) == 6
    assert not runs(running.starts("writer")[0])


def test_gives_up_soon_on_a_worker_that_never_gets_ready(up: Callable[..., Up]) -> None:
    running = up({"encoder": DIES_EARLY, "writer": WAITS}, restart_delay=lambda deaths: 0.0)
    running.start()
    running.thread.join(60)
    assert str(running.error).endswith("no such model")
    assert len(running.starts("encoder")) == 2 and running.said == []


def test_only_deaths_of_the_last_minute_count() -> None:
    deaths = Deaths()
    assert [deaths.add(now) for now in (0.0, 1.0, 59.0, 59.5, 62.0)] == [1, 2, 3, 4, 3]


def test_dead_broker_restarts_the_workers_too(up: Callable[..., Up]) -> None:
    running = up({"writer": WAITS}, as_json=True)
    running.until_ready()
    before = ensure_topics(running.settings)
    os.kill(json.loads(running.said[0])["pids"]["broker"], signal.SIGKILL)
    wait_until(lambda: len(running.starts("writer")) == 2)
    assert not runs(running.starts("writer")[0]) and runs(running.starts("writer")[1])
    assert ensure_topics(running.settings) != before
    running.end()
    assert running.error is None


def publish(settings: KafkaSettings, count: int) -> None:
    producer = settings.producer()
    for number in range(count):
        producer.send(FACTS, b"%d" % number, partition=number % 4)
    producer.flush_or_raise()
    producer.close()


def test_stopping_drains_the_broker(up: Callable[..., Up], caplog: pytest.LogCaptureFixture) -> None:
    running = up({"encoder": CONSUMES}, drain_s=60.0)
    running.until_ready()
    publish(running.settings, 40)
    with caplog.at_level("INFO", "factstream"):
        running.end()
    done = (running.data.parent / "encoder.starts").read_text().split()
    assert sorted(map(int, done)) == list(range(40))
    assert [r.getMessage() for r in caplog.records if "drain" in r.getMessage()] == ["draining", "drained"]


def test_records_that_cannot_be_drained_are_logged(
    up: Callable[..., Up], caplog: pytest.LogCaptureFixture
) -> None:
    running = up({"encoder": WAITS}, drain_s=0.2)
    running.until_ready()
    publish(running.settings, 7)
    running.end()
    (record,) = [record for record in caplog.records if record.getMessage() == "not drained"]
    assert record.__dict__["fields"][FACTS] == 7
    assert running.error is None


SUPERVISOR = """
import json, sys
from pathlib import Path
from workers.runtime import supervisor as stack
from workers.kafka.config import KafkaSettings
data, starts, script = sys.argv[1:]
stack.up(Path(data), KafkaSettings.from_env(), {"writer": [sys.executable, "-c", script, starts]}, "tiny",
True,          say=lambda line: print(line, flush=True), as_json=True)
"""


def start_supervisor(data: Path) -> tuple[subprocess.Popen[str], int, int]:
    """A supervisor in a process of its own; also the pids of its worker and of its broker, once it is
    ready."""
    settings = KafkaSettings(f"127.0.0.1:{broker.free_port()}")
    process = subprocess.Popen(
        [sys.executable, "-c", SUPERVISOR, str(data), str(data.parent / "starts"), WAITS],
        cwd=ROOT,
        env=os.environ | settings.env(),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    pids = json.loads(process.stdout.readline())["pids"]
    return process, pids["writer"], pids["broker"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stack_ends_on_sigint_and_on_sigterm(tmp_path: Path, number: signal.Signals) -> None:
    process, worker, embedded = start_supervisor(tmp_path / "data")
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert not runs(worker) and not runs(embedded)


def test_no_process_outlives_a_killed_supervisor(tmp_path: Path) -> None:
    process, worker, embedded = start_supervisor(tmp_path / "data")
    assert runs(worker) and runs(embedded)
    process.send_signal(signal.SIGKILL if sys.platform.startswith("linux") else signal.SIGTERM)
    process.communicate(timeout=60)
    wait_until(lambda: not runs(worker) and not runs(embedded))


def test_logs_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "LOG_BYTES", 100)
    path = tmp_path / "encoder.log"
    with open(path, "ab") as writer:
        for number in range(50):
            writer.write(b"line %04d\n" % number)
            writer.flush()
            child.bound_log(path)
            assert path.stat().st_size <= 110
    kept = path.with_suffix(".log.1").read_bytes() + path.read_bytes()
    assert kept.endswith(b"line 0049\n") and len(kept) <= 210
    assert child.log_tail(path).endswith("line 0049")
