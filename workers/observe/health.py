"""Health of a worker, and the port that serves it beside the metrics: /metrics, /healthz and /readyz.

`/healthz` is 200 unless the worker's loop stands still; `/readyz` is 200 while it has joined its group and its last turn
went well.
"""

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import make_wsgi_app

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

STALL_S = 300.0
"""A worker whose loop has not turned for this long is unhealthy; Kafka then gives its partitions to others, too."""
CLIENT_TIMEOUT_S = 5.0
UNAVAILABLE = "503 Service Unavailable"


@dataclass
class Health:
    """What the loop of this process's worker reports after each turn."""

    turned_at: float | None = None
    """Time of the last turn on the monotonic clock. None until the first one: a model may take minutes to load."""
    ready: bool = False

    def turned(self, ready: bool) -> None:
        self.turned_at, self.ready = time.monotonic(), ready

    def stall_s(self) -> float:
        return 0.0 if self.turned_at is None else time.monotonic() - self.turned_at


def app(health: Health) -> "WSGIApplication":
    """The three pages as a WSGI application."""
    metrics = make_wsgi_app()

    def answer(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        path, method = environ["PATH_INFO"], environ["REQUEST_METHOD"]
        if path == "/metrics":
            pages: Iterable[bytes] = metrics(environ, start_response)
            return pages
        status, body = _page(health, path) if method in ("GET", "HEAD") else ("405 Method Not Allowed", "")
        headers = [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body)))]
        start_response(status, headers)
        return [body.encode() if method != "HEAD" else b""]

    return answer


def _page(health: Health, path: str) -> tuple[str, str]:
    stall = health.stall_s()
    if path == "/healthz":
        return ("200 OK", "ok\n") if stall < STALL_S else (UNAVAILABLE, f"no turn for {stall:.0f} s\n")
    if path == "/readyz":
        return ("200 OK", "ready\n") if health.ready and stall < STALL_S else (UNAVAILABLE, "not ready\n")
    return "404 Not Found", "/metrics, /healthz or /readyz\n"


class _Handler(WSGIRequestHandler):
    """Closes the connection of a silent client, and logs no requests: one comes every few seconds."""

    timeout = CLIENT_TIMEOUT_S

    def log_message(self, format: str, *args: object) -> None: ...


class _Server(WSGIServer):
    """Serves one client at a time."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that closes its connection or stays silent is not worth a traceback on standard error."""


def address(text: str, add: int = 0, option: str = "--metrics-port") -> tuple[str, int]:
    """The host and port of PORT (on 127.0.0.1) or HOST:PORT, with `add` added to the port. Raises ValueError."""
    host, _, port = text.rpartition(":")
    if not port.isdecimal() or not 0 < int(port) + add < 65536:
        raise ValueError(f"{option} must be PORT or HOST:PORT, not {text[:80]!r}")
    return host or "127.0.0.1", int(port) + add


def serve(where: str, health: Health) -> WSGIServer:
    """Open the port and serve it on a thread until the process ends. Raises ValueError."""
    host, port = address(where)
    try:
        server = make_server(host, port, app(health), server_class=_Server, handler_class=_Handler)
    except OSError as error:
        raise ValueError(f"--metrics-port {host}:{port}: {error.strerror or error}") from None
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
    return server
