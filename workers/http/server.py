"""The server of `factstream ui`: its start, its stop, and the addresses it accepts."""

import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import uvicorn

from workers.http.guard import Guard
from workers.http.routes import Site
from workers.kafka.config import KafkaSettings
from workers.runtime.signals import Stop, stopped_by_signals

STOP_S = 2
"""Seconds that running requests get after the request to stop."""


def serve(
    settings: KafkaSettings,
    data: Path,
    host: str,
    port: int,
    stop: Stop | None = None,
    say: Callable[[str], object] = lambda url: print(f"ready: {url}", flush=True),
) -> None:
    """Serves the page until `stop`, SIGINT or SIGTERM; `say` is called with its address.

    Raises ValueError, and OSError if the port is in use.
    """
    if host in ("0.0.0.0", "::", ""):
        raise ValueError(
            "--host must be one address of this machine, the one that browsers use, not all of them"
        )
    stop = stop or Stop()
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, port), family=family) as listener:
        bound = listener.getsockname()[1]
        names = dict.fromkeys([f"[{host}]" if ":" in host else host.lower()])
        if host in ("127.0.0.1", "localhost", "::1"):
            names |= dict.fromkeys(["127.0.0.1", "localhost"])
        app = Guard(Site(settings, data).app(), [f"{name}:{bound}" for name in names])
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, proxy_headers=False, server_header=False, ws="none",
            timeout_graceful_shutdown=STOP_S, limit_concurrency=64,
        )  # fmt: skip
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="ui")
        with stopped_by_signals(stop):
            thread.start()
            while not server.started and thread.is_alive():
                time.sleep(0.02)
            if thread.is_alive():
                say(f"http://{next(iter(names))}:{bound}/")
            while thread.is_alive() and not stop.wait(0.2):
                pass
            server.should_exit = True
            thread.join()
