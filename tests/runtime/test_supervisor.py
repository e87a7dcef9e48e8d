"""The supervisor, with small scripts in the place of the workers."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from schemas.topics import FACTS
from tests.conftest import runs, wait_until
from tests.runtime.stack.local_up import DIES_EARLY, DIES_ONCE, DIES_READY, WAITS, Up
from workers.kafka.admin import ensure_topics
from workers.kafka.config import KafkaSettings
from workers.runtime import embedded_broker as broker
from workers.runtime import supervisor as stack
from workers.runtime.stack import child, states
from workers.runtime.stack.child import Deaths
from workers.runtime.stack.local_stack import LONGEST_PAUSE_S, restart_pause

ROOT = Path(__file__).parent.parent.parent
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


def test_a_worker_that_keeps_dying_is_restarted_and_the_others_stay_up(
    up: Callable[..., Up], caplog: pytest.LogCaptureFixture
) -> None:
    pauses: list[int] = []

    def pause(deaths: int) -> float:
        pauses.append(deaths)
        return 0.0 if deaths < 8 else 60.0

    running = up({"encoder": DIES_READY, "writer": WAITS}, restart_delay=pause)
    running.until_ready()
    wait_until(lambda: len(pauses) == 8)
    assert pauses == list(range(1, 9)) and len(running.starts("encoder")) == 8
    assert running.thread.is_alive() and runs(running.starts("writer")[0])
    assert len(running.starts("writer")) == 1
    wait_until(lambda: states.read(running.data)["encoder"]["deaths"] == 8)
    state = states.read(running.data)
    assert state["writer"] == {"ready": True, "deaths": 0}
    assert state["encoder"]["end"] == "exit code 1" and not state["encoder"]["ready"]
    assert state["encoder"]["restarts_at"] > time.time() + 30
    last = [r.__dict__["fields"] for r in caplog.records if r.getMessage() == "worker ended"][-1]
    assert last["name"] == "encoder" and last["deaths"] == 8 and last["last"] == "no luck"
    running.end()
    assert running.error is None and states.read(running.data) == {}


def test_pauses_grow_up_to_half_a_minute() -> None:
    pauses = [restart_pause(deaths) for deaths in range(1, 2000)]
    assert pauses[:4] == [0.5, 1, 2, 4] and pauses == sorted(pauses) and pauses[-1] == LONGEST_PAUSE_S


def test_gives_up_soon_on_a_worker_that_never_gets_ready(up: Callable[..., Up]) -> None:
    running = up({"encoder": DIES_EARLY, "writer": WAITS}, restart_delay=lambda deaths: 0.0)
    running.start()
    running.thread.join(60)
    assert str(running.error).endswith("no such model")
    assert len(running.starts("encoder")) == 2 and running.said == []


def test_a_long_life_ends_a_row_of_deaths() -> None:
    deaths = Deaths()
    assert [deaths.add(lived_s) for lived_s in (0.0, 59.0, 0.0, 60.0, 1.0)] == [1, 2, 3, 1, 2]


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
