"""The server of `factstream serve`: its start, its stop, its addresses, and who may use it."""

import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import uvicorn

from workers.http import openai
from workers.http.app import APIS
from workers.http.app import app as assembled
from workers.http.guard import Guard
from workers.kafka.config import KafkaSettings
from workers.observe.health import Health
from workers.runtime.signals import Stop, stopped_by_signals

STOP_S = 2
"""Seconds that running requests get after the request to stop."""
MAX_CONNECTIONS = 512
KEEP_ALIVE_S = 75
"""Longer than clients keep an idle connection: one that is closed just before it is used again is an error to them."""
MIN_TOKEN = 16
"""Characters of a token: a shorter one can be guessed."""
LOCAL = ("127.0.0.1", "localhost", "::1")


def tell(url: str) -> None:
    print(f"ready: {url}", flush=True)


def serve(
    settings: KafkaSettings,
    data: Path,
    host: str,
    port: int,
    stop: Stop | None = None,
    say: Callable[[str], object] = tell,
    token: str | None = None,
    health: Health | None = None,
) -> None:
    """Serves the page and the APIs until `stop`, SIGINT or SIGTERM; `say` is called with their address.

    Raises ValueError, and OSError if the port is in use.
    """
    if token is not None and len(token) < MIN_TOKEN:
        raise ValueError(f"the token has {len(token)} characters; it needs {MIN_TOKEN} or more")
    if token is None and host not in LOCAL:
        raise ValueError(f"to serve on {host} set a token in FACTSTREAM_TOKEN: others can reach it there")
    stop = stop or Stop()
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, port), family=family) as listener:
        bound = listener.getsockname()[1]
        names = dict.fromkeys([f"[{host}]" if ":" in host else host.lower()])
        if host in LOCAL:
            names |= dict.fromkeys(["127.0.0.1", "localhost"])
        accepted = [f"{name}:{bound}" for name in names]
        application = assembled(settings, data)
        app = Guard(application, accepted, token, APIS, openai.problem)
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, proxy_headers=False, server_header=False, ws="none",
            timeout_graceful_shutdown=STOP_S, limit_concurrency=MAX_CONNECTIONS,
            timeout_keep_alive=KEEP_ALIVE_S,
        )  # fmt: skip
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="http")
        with stopped_by_signals(stop):
            thread.start()
            while not server.started and thread.is_alive():
                time.sleep(0.02)
            if thread.is_alive():
                say(f"http://{next(iter(names))}:{bound}/")
            while thread.is_alive() and not stop.wait(0.2):
                if health:
                    health.turned(ready=True)
            server.should_exit = True
            application.state.shared.client.close()  # ends the streams, each with an error that says so
            thread.join()
