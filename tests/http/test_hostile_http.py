"""Hostile HTTP clients of all APIs: none stops the server, makes it grow, or gets what is another's.

`HOSTILE_REQUESTS=20000 pytest tests/http/test_hostile_http.py -s` (`make hostile`) is the long run; it prints what it saw.
"""

import asyncio
import json
import os
import random
import re
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

import httpx2
import pytest
from starlette.routing import Route

from tests.client.answerer import answering
from tests.client.test_publishing import Decider
from tests.conftest import wait_until
from tests.helpers.hostile_http import ACCEPTED, ADD, CHAT, COMPLETION, GOOD, LIST, MCP, SEARCH, attack
from tests.http.fake_model import memory_of, repeat
from tests.memories.samples import learned, write
from workers.http.app import APIS, app
from workers.kafka.config import KafkaSettings
from workers.runtime import embedded_broker as broker

REQUESTS = int(os.environ.get("HOSTILE_REQUESTS", "600"))
TOGETHER = 24
TENANTS = 200
GROWTH = 48 * 1024 * 1024
"""Bytes that the server may grow by after it has served a fifth of the requests."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


@dataclass
class Served:
    """`factstream serve` as a process, before a model that repeats what it is asked, with a memory of each tenant."""

    process: subprocess.Popen[str]
    port: int
    metrics_port: int
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def resident(self) -> int:
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGESIZE")

    def running(self) -> int:
        """Requests that the server says it is answering."""
        with urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics") as page:
            found = re.search(r"^factstream_http_running (\S+)", page.read().decode(), re.M)
        assert found
        return int(float(found[1]))

    def connect(self) -> socket.socket:
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(30)
        connection.connect(("127.0.0.1", self.port))
        return connection

    def send(self, path: str, body: object, sent: int | None = None) -> socket.socket:
        """A connection on which a request was sent, of its body only `sent` bytes."""
        data = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\nContent-Length: {len(data)}\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in ACCEPTED.items()) + "\r\n"
        connection = self.connect()
        connection.sendall(head.encode() + data[:sent])
        return connection


def tenant(n: int) -> str:
    return f"tenant {n}"


def tool(name: str, **arguments: object) -> dict[str, object]:
    params = {"name": name, "arguments": arguments}
    return {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}


@contextmanager
def deciding(settings: KafkaSettings) -> Iterator[None]:
    decider = Decider(settings)
    try:
        yield
    finally:
        decider.end()


@pytest.fixture(scope="module")
def served(embedded: broker.EmbeddedBroker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder, metrics_port = tmp_path_factory.mktemp("http"), broker.free_port()
    settings = KafkaSettings(f"127.0.0.1:{embedded.port}", "hostile-http.")
    command = [sys.executable, "-m", "workers.cli", "serve", "--data", str(folder), "--port", "0"]
    command += ["--bootstrap", settings.bootstrap, "--topic-prefix", settings.topic_prefix]
    command += ["--metrics-port", str(metrics_port)]
    env = {k: v for k, v in os.environ.items() if not k.startswith("FACTSTREAM_")}
    write(folder, [learned(n, tenant(n), f"a memory of {tenant(n)}") for n in range(TENANTS)])
    with answering(settings, repeat), deciding(settings), (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=env)
        try:
            assert process.stdout is not None
            port = int(process.stdout.readline().rstrip("/\n").rpartition(":")[2])
            yield Served(process, port, metrics_port, folder / "log")
            assert process.poll() is None, "it still runs"
        finally:
            process.terminate()
            process.wait(30)
        assert process.returncode == 0
    written = (folder / "log").read_text()
    assert "Traceback" not in written, written[-3000:]


def others() -> list[tuple[str, str]]:
    """The addresses of all APIs, with some ids in their paths."""
    routes = [one for one in app(KafkaSettings(), Path("none")).routes if isinstance(one, Route)]
    found = [
        (method, re.sub(r"{[^}]*}", id, route.path))
        for route in routes
        if route.path.startswith(APIS) and route.path not in GOOD
        for method in sorted(route.methods or ())
        for id in ("a" * 32, "%00", "x" * 999)
    ]
    assert found
    return found


def test_random_requests_are_refused_or_answered_and_memory_stays_flat(served: Served) -> None:
    dice, further = random.Random(7), others()
    statuses: Counter[int] = Counter()
    unexpected: list[str] = []
    sizes: list[int] = []

    async def send(client: httpx2.AsyncClient, count: int) -> None:
        for _ in range(count):
            one = attack(dice, further)
            headers = {name: value.encode("latin-1") for name, value in one.headers.items()}
            try:
                response = await client.request(one.method, one.path, headers=headers, content=one.body)  # type: ignore[arg-type]
            except httpx2.TransportError:
                statuses[0] += 1  # answered while the body was still being sent, and closed
                continue
            statuses[response.status_code] += 1
            if response.status_code >= 500:
                unexpected.append(f"{one.method} {one.path[:80]} {one.body[:200]!r}: {response.text[:200]}")
            elif response.status_code >= 400 and response.content and response.url.path.startswith(APIS):
                told = response.json() if one.path != MCP else {"error": response.text}  # the package's own
                assert "error" in told or "detail" in told

    async def rounds() -> None:
        async with httpx2.AsyncClient(base_url=served.url, timeout=60) as client:
            for _ in range(5):
                await asyncio.gather(*[send(client, REQUESTS // 5 // TOGETHER) for _ in range(TOGETHER)])
                sizes.append(served.resident())
                print(
                    f"\n{sum(statuses.values())} requests, {sizes[-1] >> 20} MB resident", end="", flush=True
                )

    asyncio.run(rounds())
    print(f"\n{sum(statuses.values())} requests: {dict(sorted(statuses.items()))}")
    print("resident after each fifth, MB:", [size >> 20 for size in sizes])
    assert not unexpected, unexpected[:5]
    assert statuses[200] and statuses[400] and served.running() == 0
    assert statuses[0] < REQUESTS / 50
    assert max(sizes) - sizes[0] < GROWTH, sizes


def test_200_at_once_get_their_own_memories_only(served: Served) -> None:
    async def ask(client: httpx2.AsyncClient, n: int) -> None:
        name, stream = tenant(n), n % 2 == 0
        body = {"model": "factstream", "prompt": f"I am {name}", "stream": stream}
        response = await client.post(COMPLETION, json=body, headers={"X-Factstream-Namespace": name})
        assert response.status_code == 200, response.text
        if stream:
            *events, done = re.findall(r"data: (.*)\n\n", response.text)
            assert done == "[DONE]"
            answers = [json.loads(event) for event in events]
        else:
            answers = [response.json()]
        assert "".join(answer["choices"][0]["text"] for answer in answers) == f"I am {name}"
        spoke = [m for answer in answers for m in answer.get("factstream", {}).get("memories", [])]
        assert [(m["namespace"], m["memory_id"]) for m in spoke] == [(name, memory_of(name).memory_id)]

    async def search(client: httpx2.AsyncClient, n: int) -> None:
        wanted: dict[str, object] = {"filters": {"user_id": tenant(n)}}
        path, body = (SEARCH, wanted | {"query": "a", "threshold": 0}) if n % 2 else (LIST, wanted)
        response = await client.post(path, json=body)
        assert response.status_code == 200, response.text
        found = [(one["user_id"], one["memory"]) for one in response.json()["results"]]
        assert found == [(tenant(n), f"a memory of {tenant(n)}")]

    async def use(client: httpx2.AsyncClient, n: int) -> None:
        called = tool("search_memories", query="a") if n % 2 else tool("ask", question="a")
        headers = ACCEPTED | {"X-Factstream-Namespace": tenant(n)}
        response = await client.post(MCP, json=called, headers=headers)
        assert response.status_code == 200, response.text
        found = response.json()["result"]["structuredContent"]["memories"]
        assert [one["memory"] for one in found] == [f"a memory of {tenant(n)}"]

    async def all_at_once() -> None:
        limits = httpx2.Limits(max_connections=TENANTS)
        async with httpx2.AsyncClient(base_url=served.url, timeout=120, limits=limits) as client:
            await asyncio.gather(*[(ask, search, use)[n % 3](client, n) for n in range(TENANTS)])

    asyncio.run(all_at_once())
    assert served.running() == 0


def test_clients_that_leave_free_their_requests(served: Served) -> None:
    """Each would wait for two minutes otherwise."""
    silent: list[tuple[str, dict[str, object]]] = [
        (COMPLETION, {"model": "factstream", "prompt": "silence"}),
        (SEARCH, {"query": "silence", "filters": {"user_id": tenant(1)}}),
        (MCP, tool("ask", question="silence")),
    ]
    before = served.resident()
    for _ in range(4):
        left = []
        for n in range(50):
            if n % 2 == 0:
                body = {"model": "factstream", "prompt": "I begin and pause", "stream": True}
                left.append(served.send(COMPLETION, body, None if n % 5 else 20))
                if n % 5:
                    assert left[-1].recv(100).startswith(b"HTTP/1.1 200")
            else:
                left.append(served.send(*silent[n % 3], None if n % 5 else 20))
        wait_until(lambda: served.running() == 50)
        for connection in left:
            connection.close()
        wait_until(lambda: served.running() == 0, limit_s=20)
    print(f"\n200 clients left, {(served.resident() - before) >> 20} MB more")
    assert served.resident() - before < GROWTH


def test_slow_clients_delay_no_others_and_hold_little(served: Served) -> None:
    words = " ".join(f"{n:500}".replace(" ", "-") for n in range(100))
    body = {"model": "factstream", "messages": [{"role": "user", "content": words}], "max_tokens": 100}
    whole: list[tuple[str, object]] = [
        (CHAT, body | {"stream": True, "logprobs": True, "top_logprobs": 20}),
        (CHAT, body | {"logprobs": True, "top_logprobs": 20}),
        (f"{LIST}?page_size=200", {"filters": {"user_id": "*"}}),
        (MCP, tool("ask", question=words, max_tokens=100)),
    ]
    before = served.resident()
    readers = [served.send(*whole[n % len(whole)]) for n in range(60)]
    paths = (CHAT, ADD, SEARCH, MCP)
    senders = [served.send(paths[n % len(paths)], body, 10) for n in range(60)]
    wait_until(lambda: served.running() >= 60)
    with httpx2.Client(base_url=served.url, timeout=90) as client:
        for n in range(20):
            answer = client.post(COMPLETION, json={"model": "factstream", "prompt": f"one {n}"})
            assert answer.json()["choices"][0]["text"] == f"one {n}"
            found = client.post(LIST, json={"filters": {"user_id": tenant(n)}})
            assert found.json()["count"] == 1
    held = served.resident() - before
    print(f"\n60 slow readers and 60 slow senders hold {held >> 20} MB")
    for connection in (*readers, *senders):
        with closing(connection):
            pass
    wait_until(lambda: served.running() == 0, limit_s=30)
    assert held < 2 * GROWTH
