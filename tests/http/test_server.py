"""The server of the web page without a browser: its guard, forms, streams and signals."""

import http.client
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest

from schemas.request import GenerationRequest
from schemas.response import GenerationResponse, ResponseError, Token
from tests.http.conftest import Running, serve
from workers import client
from workers.http import guard, routes, server, streams
from workers.kafka.config import KafkaSettings
from workers.runtime.embedded_broker import free_port
from workers.runtime.signals import Stop


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """On an empty folder, and no broker."""
    running = serve(KafkaSettings(f"127.0.0.1:{free_port()}"), tmp_path_factory.mktemp("none"))
    yield running
    running.end()


def call(
    running: Running, method: str, path: str, headers: dict[str, str] | None = None, body: bytes | None = None
) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=30)
    try:
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        return response.status, {k.lower(): v for k, v in response.getheaders()}, response.read()
    finally:
        connection.close()


def test_requests_of_other_sites_are_refused(bare: Running) -> None:
    here = f"127.0.0.1:{bare.port}"
    ours = {"Origin": f"http://{here}", "Sec-Fetch-Site": "same-origin"}
    form = urlencode({"prompt": "Hello"}).encode()
    assert call(bare, "GET", "/")[0] == 200
    assert call(bare, "GET", "/", {"Host": f"localhost:{bare.port}"})[0] == 200
    for host in (
        "evil.example",
        f"evil.example:{bare.port}",
        "127.0.0.1",
        f"127.0.0.1:{bare.port}.evil.example",
    ):
        assert call(bare, "GET", "/", {"Host": host})[0] == 403
    assert call(bare, "POST", "/ask", ours, form)[0] == 200
    foreign: list[dict[str, str]] = [
        {}, {"Origin": "null"}, {"Origin": "http://evil.example"}, {"Origin": f"https://{here}"},
        {"Origin": "http://127.0.0.1:1"}, ours | {"Sec-Fetch-Site": "cross-site"}, ours | {"Host": "evil.example"},
    ]  # fmt: skip
    for headers in foreign:
        for path in ("/ask", "/publish"):
            assert call(bare, "POST", path, headers, form)[0] == 403, headers
    assert (
        call(bare, "GET", "/time.json", {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors"})[0] == 403
    )
    assert call(bare, "GET", "/ask")[0] == call(bare, "DELETE", "/", ours)[0] == 405


@pytest.mark.parametrize(
    "path", ["/", "/memories", "/static/page.js", "/no-such-page", "/static/../server.py"]
)
def test_every_response_carries_the_security_headers(bare: Running, path: str) -> None:
    status, headers, body = call(bare, "GET", path)
    assert status == (200 if path in ("/", "/memories", "/static/page.js") else 404)
    assert "default-src 'none'" in headers["content-security-policy"]
    assert (
        "unsafe" not in headers["content-security-policy"] and headers["x-content-type-options"] == "nosniff"
    )
    assert b"style=" not in body and (b"<script>" not in body or path.endswith(".js"))


def test_forms_are_checked_and_bounded(bare: Running) -> None:
    ours = {"Origin": f"http://127.0.0.1:{bare.port}", "HX-Request": "true"}
    wrong: list[tuple[str, bytes, str]] = [
        ("/ask", b"prompt=" + b"x" * guard.MAX_FORM_BYTES, "KiB"),
        ("/ask", b"prompt=" + b"x" * (routes.MAX_PROMPT_CHARS + 1), "characters"),
        ("/ask", b"prompt=%20", "Write a prompt"),
        ("/ask", b"prompt=%ff", "cannot be read"),
        ("/ask", b"&".join(b"f%d=1" % n for n in range(50)), "cannot be read"),
        ("/ask", b"prompt=a&length=0", "max_new_tokens"),
        ("/ask", b"prompt=a&length=99999999999", "max_new_tokens"),
        ("/ask", b"prompt=a&namespace=no%07such", "namespace"),
        ("/publish", b"text=", "Write a fact"),
        ("/publish", b"text=" + b"x" * 9000, "text"),
        ("/publish", b"text=a%00b", "control character"),
        ("/publish", b"text=a&namespace=" + b"x" * 129, "namespace"),
    ]
    for path, body, message in wrong:
        status, _, html = call(bare, "POST", path, ours, body)
        assert status == 422 and message in html.decode(), (path, body[:40], html)
    for path in ("/memories/default/xyz", "/memories/a%07/" + "a" * 32):
        assert call(bare, "GET", path)[0] == 422
    assert call(bare, "GET", "/memories/acme%2Fsales%20EU/" + "a" * 32)[0] == 200
    odd = urlencode({"q": "'\0%", "state": "'", "category": "' or 1=1", "sort": "1; drop", "page": "-3"})
    assert call(bare, "GET", f"/memories?{odd}")[0] == 200


def test_a_stream_runs_once(bare: Running) -> None:
    ours = {"Origin": f"http://127.0.0.1:{bare.port}"}
    page = call(bare, "POST", "/publish", ours, b"text=A+lamp.")[2].decode()
    ticket = page.split('sse-connect="')[1].split('"')[0]
    first, second = (call(bare, "GET", ticket)[2].decode() for _ in range(2))
    assert "No broker answers" in first and "interrupted" in second
    assert "interrupted" in call(bare, "GET", "/stream/unknown")[2].decode()


def test_tickets_are_bounded() -> None:
    tickets = streams.Tickets()
    given = [tickets.add(lambda wanted: iter(())) for _ in range(streams.MAX_TICKETS + 5)]
    assert len(set(given)) == len(given) and tickets.take(given[4]) is None and tickets.take(given[5])


def test_an_event_keeps_every_line_in_its_data() -> None:
    text = streams.event("piece", "a\nb\r\nevent: answer\rdata: x\n\n")
    assert text == "event: piece\ndata: a\ndata: b\ndata: event: answer\ndata: data: x\ndata: \ndata: \n\n"


def test_a_failed_answer_is_shown_escaped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    failed = GenerationResponse(
        request_id="r", finish_reason="error", error=ResponseError(reason="behind", message="the <memory> is late")
    )  # fmt: skip
    monkeypatch.setattr(client, "ask", lambda *_: iter([failed]))
    page = routes.Site(KafkaSettings(), tmp_path)
    request = GenerationRequest(prompt="p")
    (event,) = page._answer(request, lambda: True)
    assert "the &lt;memory&gt; is late" in event and event.startswith("event: answer\n")


def test_a_token_is_coloured_by_how_much_it_was_raised() -> None:
    levels = [
        routes._coloured(Token(text=" a", moved=moved))["level"]
        for moved in (-0.5, 0.0, 0.04, 0.05, 0.3, 0.6, 0.9)
    ]
    assert levels == [0, 0, 0, 1, 2, 3, 4]
    assert routes._coloured(Token(text=" \n", moved=0.9)) == {
        "blank": " \n",
        "text": "",
        "level": 4,
        "moved": 90,
    }


def test_others_reach_the_server_only_with_a_token(tmp_path: Path) -> None:
    for host in ("0.0.0.0", "::", "", "192.0.2.1"):
        with pytest.raises(ValueError, match="FACTSTREAM_TOKEN"):
            server.serve(KafkaSettings(), tmp_path, host, 0, Stop())
    with pytest.raises(ValueError, match="needs 16 or more"):
        server.serve(KafkaSettings(), tmp_path, "0.0.0.0", 0, Stop(), token="short")


def test_the_server_ends_on_a_signal_and_reports_a_port_in_use(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-m", "workers.cli", "ui", "--data", str(tmp_path), "--port"]
        done = subprocess.run([*command, port], capture_output=True, text=True)
        assert done.returncode == 1 and done.stderr.startswith("error: ") and "in use" in done.stderr
    for number in (signal.SIGINT, signal.SIGTERM):
        process = subprocess.Popen([*command, "0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert process.stdout and process.stdout.readline().startswith("ready: http://127.0.0.1:")
        process.send_signal(number)
        _, errors = process.communicate(timeout=30)
        assert process.returncode == 0 and "Traceback" not in errors, errors


def test_vendored_scripts_have_their_licences() -> None:
    static = Path(routes.HERE) / "static"
    licences = (static / "LICENSES.txt").read_text()
    for file in static.glob("*.min.js"):
        assert file.name in licences
