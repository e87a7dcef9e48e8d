"""The whole stack with a small model, and a server of its page and APIs, on a free port."""

import http.client
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.http.conftest import Running, serve
from workers.kafka.config import KafkaSettings
from workers.runtime.supervisor import running


@dataclass
class Served:
    """A running stack and its server."""

    server: Running
    settings: KafkaSettings
    data: Path

    @property
    def url(self) -> str:
        return self.server.url.rstrip("/")

    def call(self, method: str, path: str, body: object = None, **headers: str) -> tuple[int, Any]:
        """The status and the JSON of a response. A body that is bytes is sent as it is."""
        return call(self.server, method, path, body, **headers)


def call(server: Running, method: str, path: str, body: object = None, **headers: str) -> tuple[int, Any]:
    sent = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    try:
        connection.request(method, path, sent, {"content-type": "application/json", **headers})
        response = connection.getresponse()
        return response.status, json.loads(response.read() or b"null")
    finally:
        connection.close()


@contextmanager
def served(model: Path, folder: Path) -> Iterator[Served]:
    with running(folder, str(model), "cpu") as (settings, _):
        server = serve(settings, folder)
        try:
            yield Served(server, settings, folder)
        finally:
            server.end()
