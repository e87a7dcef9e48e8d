"""The web page: driven in a headless Chromium on a running stack of a small random model; its guard and queries without.

Needs a Chromium: `make browser` finds or installs one, CHROMIUM names another. Without one the tests that drive it are
left out on a person's machine, and fail in CI.
"""

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from pipeline.history import log as history
from pipeline.ingest.encoder import Encoder
from pipeline.ingest.encoding import Encoding
from pipeline.memory.bank import Bank
from pipeline.memory.events import NewFact, SourceOffset
from pipeline.query.projection import pca
from pipeline.text.words import split
from schemas.request import GenerationRequest
from schemas.response import GenerationResponse, ResponseError, Token
from tests.conftest import wait_until
from workers import client
from workers.http import guard, server, streams
from workers.http import pages as look
from workers.kafka.clients import KafkaSettings
from workers.runtime.embedded_broker import free_port

pytestmark = pytest.mark.xdist_group("ui")  # its tests share a stack

HOSTILE = "<img src=x onerror=\"window.pwned=1\"><script>window.pwned=1</script> is a lamp's 'name'."
PAGES = ["/", "/memories?state=all", "/time", "/map"]
LIMIT_MS = 60_000
BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")


@dataclass
class Running:
    """A page's server on a thread, at a port of its own."""

    url: str
    stop: threading.Event
    thread: threading.Thread

    @property
    def port(self) -> int:
        return int(self.url.split(":")[2].strip("/"))

    def end(self) -> None:
        self.stop.set()
        self.thread.join(30)
        assert not self.thread.is_alive()


def serve(settings: KafkaSettings, data: Path) -> Running:
    said, stop = list[str](), threading.Event()
    arguments = (settings, data, "127.0.0.1", 0, stop, said.append)
    thread = threading.Thread(target=server.serve, args=arguments)
    thread.start()
    wait_until(lambda: said or not thread.is_alive())
    return Running(said[0], stop, thread)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        missing = f"no Chromium ({', '.join(BROWSERS)}, or CHROMIUM=path): `make browser` installs one"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(missing)
    with sync_playwright() as playwright:
        sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
        started = playwright.chromium.launch(executable_path=path, args=sandbox)
        yield started
        started.close()


@pytest.fixture(scope="module")
def ui(gpt2: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """On a stack of its own; its memory has what the tests publish through the page."""
    Encoder.load(str(gpt2))  # makes its calibration once
    data = tmp_path_factory.mktemp("data")
    settings = KafkaSettings(f"127.0.0.1:{free_port()}", session_timeout_ms=1500)
    command = ["up", "--data", str(data), "--model", str(gpt2), "--port", settings.bootstrap.split(":")[1]]
    stack = subprocess.Popen(
        [sys.executable, "-m", "workers.cli", *command], stdout=subprocess.PIPE, text=True,
        env=os.environ | {"FACTSTREAM_SESSION_TIMEOUT_MS": "1500"},
    )  # fmt: skip
    assert stack.stdout is not None
    line = stack.stdout.readline()
    assert line.startswith("ready"), line
    running = serve(settings, data)
    yield running
    running.end()
    stack.send_signal(signal.SIGTERM)
    assert stack.wait(40) == 0


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Callable[..., Page]]:
    """A page whose every request goes to its own server, and that raises and logs no error."""
    wrong: list[str] = []
    contexts = []

    def make(running: Running, path: str = "/", width: int = 1440, scheme: Any = "light") -> Page:
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(LIMIT_MS)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda told: wrong.append(told.text) if told.type == "error" else None)
        page.on("dialog", lambda dialog: wrong.append(dialog.message))
        page.on(
            "request",
            lambda request: None if request.url.startswith(running.url) else wrong.append(request.url),
        )
        page.goto(running.url.rstrip("/") + path)
        return page

    yield make
    for context in contexts:
        context.close()
    assert not wrong


def publish(page: Page, text: str, category: str) -> None:
    page.fill("#text", text)
    page.fill(".teaching [name=category]", category)
    page.set_checked("[name=always]", True)  # a random model may know anything
    page.press("#text", "Enter")
    decision = page.locator(".decision", has_text=text).first
    expect(decision.locator(".badge")).to_have_text("learned", timeout=LIMIT_MS)
    assert decision.locator(".facttext").inner_text() == text
    assert page.input_value("#text") == ""


@pytest.fixture(scope="module")
def filled(ui: Running, browser: Browser) -> Running:
    """With three memories, published through the page: one of them is hostile."""
    page = browser.new_page()
    page.goto(ui.url)
    publish(page, "The Harlow desk lamp is made of walnut.", "catalogue")
    publish(page, "Milo Kassab works as a glaciologist.", "people")
    publish(page, HOSTILE, "<b>bold</b>")
    page.close()
    return ui


def ask(page: Page, prompt: str) -> None:
    page.fill("#prompt", prompt)
    page.press("#prompt", "Enter")
    expect(page.locator(".answer:not(.waiting)")).to_have_count(2, timeout=LIMIT_MS)


# --- in the browser ---


def test_it_answers_with_and_without_memory_and_says_what_the_memory_moved(
    filled: Running, open_page: Callable[..., Page]
) -> None:
    page = open_page(filled)
    ask(page, "The Harlow desk lamp is made of")
    told, bare = page.locator(".answer").all()
    assert told.locator("h3").inner_text().lower() == "with memory"
    marked = " ".join(told.locator(".said mark").all_inner_texts())
    assert marked and all(part in "walnut" for part in marked.split())
    assert "walnut" in told.locator(".said").inner_text() != bare.locator(".said").inner_text()
    assert bare.locator("mark").count() == bare.locator(".spoke li").count() == 0
    spoke = told.locator(".spoke li").first
    assert (
        "walnut" in spoke.inner_text() and 0 < float(spoke.locator("meter").get_attribute("value") or 0) <= 1
    )
    # Its life, by the keyboard alone.
    spoke.locator("button").focus()
    page.keyboard.press("Enter")
    life = page.locator("dialog[open]")
    expect(life).to_contain_text("Learned")
    page.keyboard.press("Escape")
    expect(life).to_have_count(0)
    page.goto(f"{filled.url}memories?sort=hits")
    first = page.locator("tbody tr").first
    wait_until(
        lambda: (
            page.reload() and "walnut" in first.inner_text() and first.locator(".hits").inner_text() != "–"
        )
    )
    first.locator("button").click()
    expect(page.locator("dialog .events .used")).to_contain_text("The Harlow desk lamp is made of")


def test_the_text_appears_while_it_is_made(filled: Running, open_page: Callable[..., Page]) -> None:
    page = open_page(filled)
    page.evaluate("""window.seen = []; new MutationObserver(() => {
        const text = document.querySelector('.waiting .said [sse-swap]')?.textContent; if (text) seen.push(text);
    }).observe(document.body, {childList: true, subtree: true})""")
    page.fill("[name=length]", "60")
    ask(page, "Once upon a time")
    seen = page.evaluate("window.seen")
    assert len(set(seen)) > 3 and all(b.startswith(a) or a.startswith(b) for a, b in pairwise(seen))


def test_hostile_texts_stay_texts(filled: Running, open_page: Callable[..., Page]) -> None:
    page = open_page(filled, "/memories")
    button = page.locator("td.text button", has_text="onerror")
    assert button.inner_text() == HOSTILE
    button.click()
    assert page.locator("dialog[open] h2").inner_text() == HOSTILE
    page.keyboard.press("Escape")
    page.select_option("[name=category]", "<b>bold</b>")
    expect(page.locator("tbody tr")).to_have_count(1)
    for path in PAGES:
        page.goto(filled.url.rstrip("/") + path)
        page.wait_for_load_state("networkidle")
        assert page.evaluate("window.pwned") is None
        assert page.locator("main img, main script, main b").count() == 0
    page.focus("#points")
    for _ in range(3):
        page.keyboard.press("ArrowRight")
        if "onerror" in page.locator("#here").inner_text():
            break
    assert page.locator("#here").inner_text() == f"{HOSTILE} (<b>bold</b>)"
    page.keyboard.press("Enter")
    expect(page.locator("dialog[open] h2")).to_have_text(HOSTILE)
    page.goto(filled.url)
    ask(page, HOSTILE)
    assert HOSTILE in page.locator(".answer .said").first.inner_text()
    assert page.evaluate("window.pwned") is None


def test_the_table_is_searched_and_sorted(filled: Running, open_page: Callable[..., Page]) -> None:
    page = open_page(filled, "/memories")
    expect(page.locator("tbody tr")).to_have_count(3)
    page.fill("[name=q]", "LAMP made")
    expect(page.locator("tbody tr")).to_have_count(1)
    assert "q=LAMP%20made" in page.url
    page.fill("[name=q]", "lamp's '; drop table history; --")
    expect(page.locator(".empty")).to_contain_text("No memory is like that")
    page.click(".empty a")
    expect(page.locator("tbody tr")).to_have_count(3)
    page.wait_for_load_state()  # until then a link is a link, and the page that it leads to has no focus
    page.focus("th.text a")
    page.keyboard.press("Enter")
    expect(page.locator("th.text")).to_have_attribute("aria-sort", "ascending")
    expect(page.locator("th.text a")).to_be_focused()
    texts = page.locator("td.text button").all_inner_texts()
    assert texts == sorted(texts, key=str.lower)
    page.click("th.text a")
    expect(page.locator("th.text")).to_have_attribute("aria-sort", "descending")
    assert page.locator("td.text button").all_inner_texts() == texts[::-1]
    page.select_option("[name=state]", "superseded")
    expect(page.locator(".empty")).to_be_visible()
    page.go_back()
    expect(page.locator("th.text")).to_have_attribute("aria-sort", "descending")
    page.locator("td.text button").first.click()
    expect(page.locator("dialog[open]")).to_be_visible()


def test_plots_and_map_show_what_there_is(filled: Running, open_page: Callable[..., Page]) -> None:
    page = open_page(filled, "/time")
    expect(page.locator("#plots")).to_be_visible()
    page.locator("figure", has=page.locator("#outcomes")).locator("summary").click()
    figures = page.locator("figure", has=page.locator("#outcomes")).locator(".figures")
    expect(figures).to_contain_text("learned")
    assert page.evaluate("Chart.getChart('outcomes').data.datasets[0].data.reduce((a, b) => a + b, 0)") == 3
    assert page.evaluate("Chart.getChart('now').data.labels.length") == 3
    assert page.evaluate("Chart.getChart('lag').data.datasets.length") == 5
    page.goto(f"{filled.url}map")
    expect(page.locator("#atlas")).to_be_visible()
    count = "Chart.getChart('points').data.datasets.reduce((a, set) => a + set.data.length, 0)"
    assert page.evaluate(count) == 3
    key = page.locator(".keys button").first
    key.press("Enter")
    expect(key).to_have_attribute("aria-pressed", "false")
    assert page.evaluate("Chart.getChart('points').isDatasetVisible(0)") is False


CONTRAST = """() => {
  const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const rgba = (colour) => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data]; };
  const light = ([r, g, b]) => { const f = (v) => (v /= 255) <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
    return .2126 * f(r) + .7152 * f(g) + .0722 * f(b); };
  const behind = (node) => { for (; node; node = node.parentElement) {
    const colour = rgba(getComputedStyle(node).backgroundColor); if (colour[3] === 255) return colour; }
    return rgba('Canvas'); };
  const low = [];
  for (const node of document.querySelectorAll('body *')) {
    const own = [...node.childNodes].some((child) => child.nodeType === 3 && child.textContent.trim());
    if (!own || !node.checkVisibility() || node.closest('.skip, .hidden, noscript, option, svg')) continue;
    const [a, b] = [light(rgba(getComputedStyle(node).color)), light(behind(node))];
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    if (ratio < 4.5) low.push(`${node.tagName}.${node.className} ${ratio.toFixed(2)} ${node.textContent.trim().slice(0, 40)}`);
  }
  return low;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1440])
def test_it_fits_and_is_read_easily(
    filled: Running, open_page: Callable[..., Page], width: int, scheme: str
) -> None:
    page = open_page(filled, "/", width, scheme)
    ask(page, "The Harlow desk lamp is made of")
    for path in [None, *PAGES, "/no-such-page"]:
        if path == "/no-such-page":
            page.route("**/no-such-page", lambda route: route.fulfill(status=200, body=route.fetch().body()))
        if path:
            page.goto(filled.url.rstrip("/") + path)
            page.wait_for_load_state("networkidle")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), path
        assert page.evaluate(CONTRAST) == [], path
        unnamed = (
            "[...document.querySelectorAll('input, textarea, select')].filter((e) => !e.labels.length).length"
        )
        assert page.evaluate(unnamed) == 0
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 21, 22)"
    assert dark == (scheme == "dark")


def test_the_keyboard_reaches_everything_in_order(filled: Running, open_page: Callable[..., Page]) -> None:
    page = open_page(filled)
    reached = []
    for _ in range(17):
        page.keyboard.press("Tab")
        told = "(e => e.name || e.textContent.trim())(document.activeElement)"
        reached.append(page.evaluate(told))
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none", reached[-1]
    assert reached == [
        "Skip to the content", "factstream", "Ask", "Memories", "Over time", "Map", "prompt", "length", "namespace",
        "chat", "Ask", "text", "category", "source", "namespace", "always", "Publish",
    ]  # fmt: skip


def test_with_no_broker_and_no_data_it_says_so_in_plain_words(
    tmp_path: Path, open_page: Callable[..., Page]
) -> None:
    running = serve(KafkaSettings(f"127.0.0.1:{free_port()}"), tmp_path / "data")
    try:
        page = open_page(running)
        expect(page.locator("#status")).to_contain_text("no broker at 127.0.0.1", timeout=LIMIT_MS)
        ask(page, "Anything")
        problem = page.locator(".answer .problem").first
        assert "start one with `factstream up`" in problem.inner_text()
        page.fill("#text", "A lamp.")
        page.press("#text", "Enter")
        expect(page.locator(".decision:not(.waiting) .problem")).to_be_visible(timeout=LIMIT_MS)
        page.goto(f"{running.url}memories")
        expect(page.locator(".empty")).to_contain_text("Nothing is remembered yet")
        for path, state in (("time", "#plots-state"), ("map", "#map-state")):
            page.goto(running.url + path)
            expect(page.locator(state)).to_contain_text("Nothing is remembered yet")
    finally:
        running.end()


def test_it_says_when_its_server_has_ended(tmp_path: Path, browser: Browser) -> None:
    running = serve(KafkaSettings(f"127.0.0.1:{free_port()}"), tmp_path / "data")
    page = browser.new_page()
    page.goto(running.url)
    running.end()
    page.fill("#prompt", "Hello")
    page.press("#prompt", "Enter")
    expect(page.locator("#offline")).to_be_visible()
    page.close()


# --- without a browser ---


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


def test_only_its_own_page_may_call(bare: Running) -> None:
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
def test_every_answer_says_what_a_browser_may_do_with_it(bare: Running, path: str) -> None:
    status, headers, body = call(bare, "GET", path)
    assert status == (200 if path in ("/", "/memories", "/static/page.js") else 404)
    assert "default-src 'none'" in headers["content-security-policy"]
    assert (
        "unsafe" not in headers["content-security-policy"] and headers["x-content-type-options"] == "nosniff"
    )
    assert b"style=" not in body and (b"<script>" not in body or path.endswith(".js"))


def test_a_form_is_bounded(bare: Running) -> None:
    ours = {"Origin": f"http://127.0.0.1:{bare.port}", "HX-Request": "true"}
    wrong: list[tuple[str, bytes, str]] = [
        ("/ask", b"prompt=" + b"x" * guard.MAX_FORM_BYTES, "KiB"),
        ("/ask", b"prompt=" + b"x" * (server.MAX_PROMPT_CHARS + 1), "characters"),
        ("/ask", b"prompt=%20", "Write a prompt"),
        ("/ask", b"prompt=%ff", "cannot be read"),
        ("/ask", b"&".join(b"f%d=1" % n for n in range(50)), "cannot be read"),
        ("/ask", b"prompt=a&length=0", "max_new_tokens"),
        ("/ask", b"prompt=a&length=99999999999", "max_new_tokens"),
        ("/ask", b"prompt=a&namespace=No%20Such", "namespace"),
        ("/publish", b"text=", "Write a fact"),
        ("/publish", b"text=" + b"x" * 9000, "text"),
        ("/publish", b"text=a%00b", "control character"),
        ("/publish", b"text=a&namespace=../x", "namespace"),
    ]
    for path, body, told in wrong:
        status, _, said = call(bare, "POST", path, ours, body)
        assert status == 422 and told in said.decode(), (path, body[:40], said)
    for path in ("/memories/default/xyz", "/memories/No/" + "a" * 32):
        assert call(bare, "GET", path)[0] == 422
    odd = urlencode({"q": "'\0%", "state": "'", "category": "' or 1=1", "sort": "1; drop", "page": "-3"})
    assert call(bare, "GET", f"/memories?{odd}")[0] == 200


def test_a_stream_runs_once(bare: Running) -> None:
    ours = {"Origin": f"http://127.0.0.1:{bare.port}"}
    page = call(bare, "POST", "/publish", ours, b"text=A+lamp.")[2].decode()
    ticket = page.split('sse-connect="')[1].split('"')[0]
    first, second = (call(bare, "GET", ticket)[2].decode() for _ in range(2))
    assert "No broker answers" in first and "interrupted" in second
    assert "interrupted" in call(bare, "GET", "/stream/of-nobody")[2].decode()


def test_tickets_are_bounded() -> None:
    tickets = streams.Tickets()
    given = [tickets.leave(lambda going: iter(())) for _ in range(streams.MAX_TICKETS + 5)]
    assert len(set(given)) == len(given) and tickets.take(given[4]) is None and tickets.take(given[5])


def test_an_event_keeps_every_line_in_its_data() -> None:
    told = streams.event("piece", "a\nb\r\nevent: answer\rdata: x\n\n")
    assert told == "event: piece\ndata: a\ndata: b\ndata: event: answer\ndata: data: x\ndata: \ndata: \n\n"


def test_an_answer_that_failed_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    failed = GenerationResponse(
        request_id="r", finish_reason="error", error=ResponseError(reason="behind", message="the <memory> is late")
    )  # fmt: skip
    monkeypatch.setattr(client, "ask", lambda *_: iter([failed]))
    page = server.UI(KafkaSettings(), tmp_path)
    request = GenerationRequest(prompt="p")
    (event,) = page._answer(request, lambda: True)
    assert "the &lt;memory&gt; is late" in event and event.startswith("event: answer\n")


def test_a_token_is_coloured_by_how_far_it_was_moved() -> None:
    levels = [
        server._coloured(Token(text=" a", moved=moved))["level"]
        for moved in (-0.5, 0.0, 0.04, 0.05, 0.3, 0.6, 0.9)
    ]
    assert levels == [0, 0, 0, 1, 2, 3, 4]
    assert server._coloured(Token(text=" \n", moved=0.9)) == {
        "blank": " \n",
        "text": "",
        "level": 4,
        "moved": 90,
    }


@pytest.mark.parametrize("host", ["0.0.0.0", "::", ""])
def test_it_does_not_listen_everywhere(tmp_path: Path, host: str) -> None:
    with pytest.raises(ValueError, match="one address"):
        server.serve(KafkaSettings(), tmp_path, host, 0, threading.Event())


def test_it_ends_on_a_signal_and_says_when_its_port_is_taken(tmp_path: Path) -> None:
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


def test_vendored_files_have_their_licences() -> None:
    static = Path(server.HERE) / "static"
    told = (static / "LICENSES.txt").read_text()
    for file in static.glob("*.min.js"):
        assert file.name in told


# --- the queries ---


@pytest.fixture
def told(tmp_path: Path) -> Path:
    """A history: two memories of a namespace, of which one is superseded, one fact skipped; one fact a minute."""
    bank, rows = Bank(), []
    begin = datetime(2026, 3, 1, 12, tzinfo=UTC)
    dice = np.random.default_rng(7)
    facts = [
        ("The Zephyr kettle ships from Gdansk.", 4.0), ("The Zephyr kettle ships from Tromso.", 4.0),
        ("Milo's job is 'glaciologist'.", 6.0), ("Paris is in France.", 0.01),
    ]  # fmt: skip
    for n, (text, delta) in enumerate(facts):
        now = begin + timedelta(minutes=n)
        words = len(split(text))
        ones = np.ones(words, np.float32)
        vectors = dice.integers(0, 256, (words, 4), np.uint8)
        encoding = Encoding(text, "model", 5.0, 5.0 - delta, delta, ones, ones, vectors)
        cause = SourceOffset("facts", "id", 0, n)
        fact = NewFact(
            "default", encoding, now, now - timedelta(seconds=2), cause, category="c" if n < 2 else None
        )
        for row in bank.decide(fact, now):
            bank.apply(row)
            rows.append(row)
    history.append(tmp_path, 0, 0, rows)
    return tmp_path


def test_the_table_knows_each_memorys_state(told: Path) -> None:
    rows, count = look.memories(told, look.Asked(state="all", sort="learned", down=False))
    assert count == len(rows) == 3
    gdansk, tromso, milo = rows
    assert [row["state"] for row in rows] == ["superseded", "remembered", "remembered"]
    assert tromso["replaces"] and not milo["replaces"]
    for words, found in (("milo's", [milo]), ("SHIPS from", [tromso]), ("' or ''='", []), ("%", [])):
        assert look.memories(told, look.Asked(words=words))[0] == [
            row | {"total": len(found)} for row in found
        ]
    assert [row["text"] for row in look.memories(told, look.Asked(state="superseded"))[0]] == [gdansk["text"]]
    assert look.memories(told, look.Asked(category="c"))[1] == 1
    assert look.memories(told, look.Asked(page=2))[0] == []
    events = look.life(told, "default", gdansk["memory_id"])
    assert [(e["outcome"], e["own"]) for e in events] == [("learned", True), ("superseded", False)]
    assert look.life(told, "default", tromso["memory_id"])[0]["nearest_text"] == gdansk["text"]
    assert look.life(told, "elsewhere", tromso["memory_id"]) == []
    decided = look.decision(told, "id", 0, 1)
    assert decided and decided["outcome"] == "superseded" and decided["nearest_text"] == gdansk["text"]
    assert look.decision(told, "id'", 0, 1) is None


def test_what_happened_over_time(told: Path) -> None:
    seen = look.over_time(told)
    assert seen["width_s"] == 5 and seen["buckets"][-1] - seen["buckets"][0] == 180
    assert json.dumps(seen)
    counted = {(row["bucket"], row["outcome"]): row["count"] for row in seen["outcomes"]}
    assert sum(counted.values()) == 4 and {bucket for bucket, _ in counted} <= set(seen["buckets"])
    assert {outcome for _, outcome in counted} == {"learned", "superseded", "skipped"}
    assert all(row["usual"] == pytest.approx(2.0) for row in seen["learning"])
    assert sorted(row["category"] for row in seen["categories"]) == ["c", "c", "none"]


def test_the_map_has_every_memory_and_stays_as_it_is(told: Path) -> None:
    points = look.atlas(told)
    assert len(points) == 2 and points == look.atlas(told)
    assert points[0]["x"] == -points[1]["x"] and abs(points[0]["x"]) == 1


def test_the_plane_is_that_in_which_points_differ_most() -> None:
    dice = np.random.default_rng(1)
    wide = dice.exponential(9.0, 200), dice.exponential(3.0, 200)
    x = np.zeros((200, 5), np.float32)
    x[:, 3], x[:, 1] = wide[0], -wide[1]
    places = pca(list(x))
    for n in (0, 1):
        assert np.corrcoef(places[:, n], wide[n])[0, 1] > 0.99 and np.abs(
            places[:, n]
        ).max() == pytest.approx(1)
    assert (
        pca([]).shape == (0, 2)
        and pca([x[0]]).tolist() == [[0, 0]]
        and pca([x[0, :1], x[1, :1]]).shape == (2, 2)
    )


def test_many_decisions_are_a_bounded_number_of_buckets() -> None:
    for seconds in (0.5, 100, 86400, 400 * 86400, 20 * 365 * 86400):
        assert any(seconds / width < look.BUCKETS for width in look.WIDTHS_S), seconds
