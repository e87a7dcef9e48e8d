"""A Kafka cluster that a test may restart or wipe: the embedded one, Apache Kafka, or a foreign one."""

import os
import time
from pathlib import Path

from tests.helpers.apache import Apache
from workers.runtime import embedded_broker as broker


class Cluster:
    """`kind` is embedded, apache (one node), three (three nodes), or foreign: the one at KAFKA_BOOTSTRAP, which cannot
    be stopped."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind = kind
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._running: Apache | broker.EmbeddedBroker | None = None
        if kind == "embedded":
            self._running = broker.start(broker.free_port(), folder / "broker.log")
        elif kind in ("apache", "three"):
            self._running = Apache(folder, nodes=3 if kind == "three" else 1)
        self.bootstrap = self._running.bootstrap if self._running else os.environ["KAFKA_BOOTSTRAP"]

    def restart(self, wipe: bool) -> None:
        """Kills the broker and starts it again; with `wipe` empty, which the embedded one always is."""
        if isinstance(self._running, Apache):
            if wipe:
                return self._running.wipe()
            self._running.kill()
            self._running.revive()
        elif self._running:
            self._running.process.kill()
            self._running.process.wait()
            self._running = broker.start(self._running.port, self._folder / "broker.log")

    def lose_node(self, node: int, for_s: float) -> None:
        """Kills one node of several, which comes back on its data `for_s` seconds later."""
        assert isinstance(self._running, Apache)
        self._running.kill(node)
        time.sleep(for_s)
        self._running.revive()

    def stop(self) -> None:
        if self._running:
            self._running.stop()
