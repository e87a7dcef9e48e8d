"""`factstream up` on a thread of the test's process, with small scripts in the place of the workers."""

import sys
import threading
from pathlib import Path
from typing import Any

from tests.conftest import wait_until
from workers.kafka.config import KafkaSettings
from workers.runtime import embedded_broker as broker
from workers.runtime import supervisor as stack
from workers.runtime.signals import Stop

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
