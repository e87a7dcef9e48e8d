"""Fixtures of the tests on object stores: servers, started once, and fresh prefixes."""

import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.buckets.proxy import Proxy
from tests.buckets.servers import Missing, Server, start

_numbers = itertools.count()
Place = tuple[Server, str]
"""A server, and the URL of a prefix that nobody else uses."""


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Server]]:
    """The running server of a name; skips where its program is missing."""
    running: dict[str, Server] = {}

    def get(name: str) -> Server:
        if name not in running:
            try:
                running[name] = start(name, tmp_path_factory.mktemp("stores") / name)
            except Missing as error:
                pytest.skip(str(error))
            ends.callback(running[name].stop)
        return running[name]

    with ExitStack() as ends:
        yield get


@pytest.fixture
def proxied(
    servers: Callable[[str], Server], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], tuple[Proxy, str]]]:
    """Points this process's credentials to a proxy of the server of a name; returns the proxy and a fresh URL."""
    with ExitStack() as ends:

        def get(name: str) -> tuple[Proxy, str]:
            server = servers(name)
            proxy = Proxy(server.port).start()
            ends.callback(proxy.stop)
            use(monkeypatch, server.through(proxy.port))
            return proxy, fresh_url(server)

        yield get


def fresh_url(server: Server) -> str:
    return f"{server.url}/t{os.getpid()}-{next(_numbers)}"


def use(monkeypatch: pytest.MonkeyPatch, env: dict[str, str]) -> None:
    """Makes these the only credentials of this process."""
    for name in os.environ:
        if name.startswith(("AWS_", "AZURE_")):
            monkeypatch.delenv(name)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
