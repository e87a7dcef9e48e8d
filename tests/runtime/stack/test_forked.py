"""Workers that are forked from a process that has imported what they need, instead of started."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from multiprocessing import forkserver
from pathlib import Path

import pytest

from tests.conftest import runs, wait_until
from workers.runtime.stack import forked
from workers.runtime.stack.child import Child

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks on Linux only")
SAYS = [sys.executable, "-m", "tests.runtime.stack.says"]
SUPERVISOR = """
import sys, time
from pathlib import Path
from workers.runtime.stack import forked
from workers.runtime.stack.child import Child
if __name__ == "__main__":
    forked.start_server("json")
    one = Child("one", [sys.executable, "-m", "tests.runtime.stack.says", sys.argv[1]], Path(sys.argv[1] + ".log"), True)
    one.start({"SAYS": ""})
    print(one.pid, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def order(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "order"
    yield path
    path.write_text("0")


def child(order: Path) -> Child:
    forked.start_server("json")
    made = Child("encoder", [*SAYS, str(order)], order.parent / "log", forked=True)
    made.start({"SAYS": "a word"})
    wait_until(lambda: made.poll(time.monotonic()) is not None or made.ready)
    assert made.ready == {"memories": 4}
    return made


def test_a_forked_process_is_as_one_that_was_started(order: Path) -> None:
    one = child(order)
    pid = one.pid
    assert pid is not None and runs(pid)
    (line,) = [line for line in one.log.read_text().splitlines() if line.startswith("{")]
    assert json.loads(line) == {"arguments": [str(order)], "variable": "a word", "session": pid}
    order.write_text("7")
    wait_until(lambda: one.poll(time.monotonic()) == 7)
    assert one.log.read_text().endswith("the end\n") and not runs(pid)
    one.stop()


def test_a_forked_process_is_killed_stopped_and_forked_again(order: Path) -> None:
    one = child(order)
    assert one.pid is not None
    os.kill(one.pid, signal.SIGKILL)
    wait_until(lambda: one.poll(time.monotonic()) == -signal.SIGKILL)
    one.start({"SAYS": ""})
    pid = one.pid
    assert pid is not None
    wait_until(lambda: one.poll(time.monotonic()) is None and one.ready)
    one.stop(5.0)  # SIGTERM
    assert not runs(pid)


def test_nothing_is_forked_where_a_gpu_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forked, "GPU_DEVICES", ("/dev/no-such-device",))
    assert forked.available(SAYS) and not forked.available(["/another/python", "-m", "x"])
    assert not forked.available([sys.executable, "-c", "pass"])
    monkeypatch.setattr(forked, "GPU_DEVICES", (str(tmp_path),))
    assert not forked.available(SAYS)


def test_without_the_server_a_worker_is_started(order: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: object) -> None:
        raise EOFError

    forked.start_server("json")
    monkeypatch.setattr(forkserver, "connect_to_new_process", gone)
    one = child(order)
    assert isinstance(one._process, subprocess.Popen)
    one.stop(5.0)


def test_no_forked_process_outlives_a_killed_supervisor(tmp_path: Path) -> None:
    script = tmp_path / "supervisor.py"
    script.write_text(SUPERVISOR)
    root = str(Path(__file__).parents[3])
    process = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path / "order")],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": root},
    )
    assert process.stdout is not None
    pid = int(process.stdout.readline())
    assert runs(pid)
    process.kill()
    process.communicate(timeout=30)
    wait_until(lambda: not runs(pid))
