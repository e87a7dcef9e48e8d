"""A real Apache Kafka for tests, started by the script that KAFKA_SCRIPT names."""

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

SCRIPT = Path(
    os.environ.get("KAFKA_SCRIPT")
    or Path(__file__).parent.parent.parent.parent / "shared" / "kafka" / "kafka"
)

MISSING = f"needs Apache Kafka: KAFKA_SCRIPT names a script that starts one, and there is no {SCRIPT}"


class Apache:
    """`nodes` nodes with their data under `folder`. Started again on it, they find their data, on the same ports."""

    def __init__(self, folder: Path, nodes: int = 1) -> None:
        self.folder, self._nodes = folder, nodes
        self.pids: dict[int, int] = {}
        self._start()

    def _start(self) -> None:
        command = [str(SCRIPT), "start", "--dir", str(self.folder), "--nodes", str(self._nodes)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        line = self._process.stdout.readline().split()
        assert line[:1] == ["ready"], "Apache Kafka did not start"
        self.bootstrap = line[1]
        self._read_nodes(self._nodes)

    def _read_nodes(self, count: int) -> None:
        assert self._process.stdout is not None
        for _ in range(count):
            node = json.loads(self._process.stdout.readline())
            self.pids[node["node"]] = node["pid"]

    def kill(self, node: int = 1) -> None:
        os.kill(self.pids.pop(node), signal.SIGKILL)
        time.sleep(0.5)  # until the script has seen it: it revives only those that it knows to have ended

    def revive(self) -> None:
        """Starts the killed nodes again, on their data."""
        self._process.send_signal(signal.SIGUSR1)
        self._read_nodes(self._nodes - len(self.pids))

    def wipe(self) -> None:
        """An empty cluster at the same address, whose topics have other ids."""
        self.stop()
        for node in self.folder.glob("node*"):
            shutil.rmtree(node)
        self._start()

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(60)
