"""The servers and the proxy do what their names say, or the tests on them would prove nothing."""

import contextlib
import http.client
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pipeline.history.errors import HistoryError, Unwritable
from pipeline.store.bucket import Bucket, Taken
from tests.buckets import servers as programs
from tests.buckets.conftest import fresh_url, use
from tests.buckets.proxy import IN_A_ROW, IN_A_STORM, Proxy, Rule, Storm
from tests.buckets.servers import BUCKET, Missing, Server, start
from tests.conftest import runs, wait_until

obstore: Any = pytest.importorskip("obstore", reason="obstore is not installed: it is in the extra `dev`")


@pytest.fixture
def proxy(servers: Callable[[str], Server]) -> Any:
    running = Proxy(servers("moto").port).start()
    yield running
    running.stop()


def ask(port: int, method: str, key: str, body: bytes = b"") -> tuple[int, bytes]:
    """One request without any retry."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    with contextlib.closing(connection):
        connection.request(method, f"/{BUCKET}/{key}", body, {"Authorization": "AWS S3RVER:unchecked"})
        response = connection.getresponse()
        return response.status, response.read()


def landed(proxy: Proxy, key: str) -> bool:
    return ask(proxy.upstream, "GET", key)[0] == 200


@pytest.mark.parametrize(
    ("name", "winners"),
    [("moto", 1), *(pytest.param(*one, marks=pytest.mark.slow) for one in (("seaweedfs", 1), ("azurite", 1), ("s3rver", 8)))],
)  # fmt: skip
def test_of_eight_writers_of_a_name_one_wins_where_preconditions_count(
    servers: Callable[[str], Server], monkeypatch: pytest.MonkeyPatch, name: str, winners: int
) -> None:
    server = servers(name)
    use(monkeypatch, server.env)
    store = obstore.store.from_url(fresh_url(server))

    def create(n: int) -> bool:
        with contextlib.suppress(obstore.exceptions.AlreadyExistsError):
            obstore.put(store, "key", b"%d" % n, mode="create", use_multipart=False)
            return True
        return False

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(create, range(8))) == winners


@pytest.mark.parametrize(
    ("fault", "lands", "status"),
    [
        ("answer lost", True, None), ("request lost", False, None), ("refused 503", False, 503),
        ("503 after success", True, 503), ("409", False, 409), ("409 after success", True, 409), ("slow", True, 200),
    ],
)  # fmt: skip
def test_a_fault_happens_to_one_request_and_not_to_the_next(
    proxy: Proxy, fault: str, lands: bool, status: int | None
) -> None:
    key = fault.replace(" ", "-")
    proxy.rules.append(Rule(fault, "PUT", f"/{key}$", after=1))
    assert ask(proxy.port, "PUT", "another", b"x")[0] == ask(proxy.port, "PUT", key, b"x")[0] == 200
    ask(proxy.upstream, "DELETE", key)
    try:
        assert ask(proxy.port, "PUT", key, b"x")[0] == status
    except (ConnectionError, http.client.HTTPException):
        assert status is None
    assert landed(proxy, key) == lands
    assert ask(proxy.port, "PUT", key, b"x")[0] == 200
    assert proxy.done == {fault: 1}


def test_a_slow_request_lands_though_its_client_is_gone(proxy: Proxy) -> None:
    gone = threading.Event()
    proxy.rules.append(Rule("slow", before=lambda: gone.wait(20)))
    connection = http.client.HTTPConnection("127.0.0.1", proxy.port)
    connection.request("PUT", f"/{BUCKET}/late", b"x")
    connection.close()
    assert not landed(proxy, "late")
    gone.set()
    wait_until(lambda: landed(proxy, "late"))


def test_a_cut_answer_is_no_whole_one(proxy: Proxy) -> None:
    ask(proxy.port, "PUT", "whole", b"x" * 1000)
    proxy.rules.append(Rule("cut", "GET"))
    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        ask(proxy.port, "GET", "whole")
    assert ask(proxy.port, "GET", "whole") == (200, b"x" * 1000)


def test_what_a_storm_does_follows_from_its_seed_and_ends() -> None:
    def faults(seed: int) -> list[list[str]]:
        storm = Storm(seed, 0.9)
        return [[storm.fault("PUT", f"/b/{n}", again) for again in range(9)] for n in range(40)]

    assert faults(1) == faults(1) != faults(2)
    assert all("" in row[begin : begin + IN_A_ROW + 1] for row in faults(1) for begin in range(7))
    assert not any(Storm(1, 0.9, quiet=True).fault("PUT", f"/b/{n}", 0) for n in range(40))


@pytest.mark.parametrize("fault", IN_A_STORM["PUT"])
def test_a_bucket_creates_once_whatever_happens_to_the_request(
    proxied: Callable[[str], tuple[Proxy, str]], fault: str
) -> None:
    proxy, url = proxied("moto")
    bucket = Bucket.open(url)
    proxy.rules.append(Rule(fault))
    bucket.create("one", b"first: token-1", "token-1")
    proxy.rules.append(Rule(fault))
    with pytest.raises(Taken):
        bucket.create("one", b"second: token-2", "token-2")
    assert bucket.get("one") == b"first: token-1" and proxy.done == {fault: 2}


@pytest.mark.parametrize(
    "name", ["moto", *(pytest.param(name, marks=pytest.mark.slow) for name in ("seaweedfs", "azurite"))]
)
def test_a_good_store_passes_the_probe_and_replaces_what_it_found(
    proxied: Callable[[str], tuple[Proxy, str]], name: str
) -> None:
    bucket = Bucket.open(proxied(name)[1])
    bucket.probe("token")
    assert bucket.objects("") == []
    bucket.create("one", b"first: token-1", "token-1")
    (found,) = bucket.objects("")
    assert bucket.replace(found, b"second")[:3] == bucket.objects("")[0][:3]  # its answer has no time
    with pytest.raises(Unwritable, match="changed"):
        bucket.replace(found, b"third")
    assert bucket.get("one") == b"second"


@pytest.mark.slow
def test_a_store_that_ignores_preconditions_is_refused(proxied: Callable[[str], tuple[Proxy, str]]) -> None:
    with pytest.raises(HistoryError, match="lets two writers create the same object"):
        Bucket.open(proxied("s3rver")[1]).probe("token")


def test_a_stopped_server_is_gone(tmp_path: Path) -> None:
    server = start("moto", tmp_path / "moto")
    server.stop()
    assert not runs(server.process.pid)


def test_a_missing_program_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "FETCHED", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Missing, match="make store-servers"):
        start("seaweedfs", tmp_path / "seaweedfs")
