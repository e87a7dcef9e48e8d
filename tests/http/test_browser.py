"""The web page in a headless Chromium, on a running stack with a small random model."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.conftest import wait_until
from tests.helpers.weights import NUMBERS, install
from tests.http.conftest import LIMIT_MS, Running, serve
from workers.kafka.config import KafkaSettings
from workers.runtime.embedded_broker import free_port

pytestmark = pytest.mark.browser

HOSTILE = "<img src=x onerror=\"window.pwned=1\"><script>window.pwned=1</script> is a lamp's 'name'."
PAGES = ["/", "/chat", "/memories?state=all", "/time", "/map"]


@pytest.fixture(scope="module")
def ui(gpt2: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """On a stack of its own; its memory has what the tests publish through the page."""
    data, cache = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("cache")
    install(
        gpt2, cache, NUMBERS._replace(follow=0.0)
    )  # what a memory says is pieces of the words that the prompt lacks
    settings = KafkaSettings(f"127.0.0.1:{free_port()}", session_timeout_ms=1500)
    command = ["up", "--data", str(data), "--model", str(gpt2), "--port", settings.bootstrap.split(":")[1]]
    stack = subprocess.Popen(
        [sys.executable, "-m", "workers.cli", *command], stdout=subprocess.PIPE, text=True,
        env=os.environ | {"FACTSTREAM_SESSION_TIMEOUT_MS": "1500", "FACTSTREAM_CACHE": str(cache)},
    )  # fmt: skip
    assert stack.stdout is not None
    line = stack.stdout.readline()
    assert line.startswith("ready"), line
    running = serve(settings, data)
    yield running
    running.end()
    stack.send_signal(signal.SIGTERM)
    assert stack.wait(40) == 0


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


def test_answers_with_and_without_memory_stand_side_by_side(
    filled: Running, open_page: Callable[..., Page]
) -> None:
    page = open_page(filled)
    ask(page, "The Harlow desk lamp is made of")
    remembered, bare = page.locator(".answer").all()
    assert remembered.locator("h3").inner_text().lower() == "with memory"
    marked = " ".join(remembered.locator(".generated mark").all_inner_texts())
    assert marked and all(part in "walnut" for part in marked.split())
    assert remembered.locator(".generated").inner_text() != bare.locator(".generated").inner_text()
    assert bare.locator("mark").count() == bare.locator(".sources li").count() == 0
    source = remembered.locator(".sources li").first
    assert (
        "walnut" in source.inner_text()
        and 0 < float(source.locator("meter").get_attribute("value") or 0) <= 1
    )
    # The memory's history, by the keyboard alone.
    source.locator("button").focus()
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


def test_the_text_appears_while_it_is_generated(filled: Running, open_page: Callable[..., Page]) -> None:
    page = open_page(filled)
    page.evaluate("""window.seen = []; new MutationObserver(() => {
        const text = document.querySelector('.waiting .generated [sse-swap]')?.textContent; if (text) seen.push(text);
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
    assert HOSTILE in page.locator(".answer .generated").first.inner_text()
    assert page.evaluate("window.pwned") is None


def test_the_table_is_searched_and_sorted(filled: Running, open_page: Callable[..., Page]) -> None:
    page = open_page(filled, "/memories")
    expect(page.locator("tbody tr")).to_have_count(3)
    page.fill("[name=q]", "LAMP made")
    expect(page.locator("tbody tr")).to_have_count(1)
    assert "q=LAMP%20made" in page.url
    page.fill("[name=q]", "lamp's '; drop table history; --")
    expect(page.locator(".empty")).to_contain_text("No memory matches")
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


def test_plots_and_map_show_every_memory(filled: Running, open_page: Callable[..., Page]) -> None:
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
def test_every_page_fits_the_screen_with_enough_contrast(
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
    for _ in range(18):
        page.keyboard.press("Tab")
        name = "(e => e.name || e.textContent.trim())(document.activeElement)"
        reached.append(page.evaluate(name))
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none", reached[-1]
    assert reached == [
        "Skip to the content", "factstream", "Ask", "Chat", "Memories", "Over time", "Map", "prompt", "length", "namespace",
        "chat", "Ask", "text", "category", "source", "namespace", "always", "Publish",
    ]  # fmt: skip


def test_a_missing_broker_and_empty_data_are_explained(
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


def test_the_page_notices_that_its_server_has_ended(tmp_path: Path, browser: Browser) -> None:
    running = serve(KafkaSettings(f"127.0.0.1:{free_port()}"), tmp_path / "data")
    page = browser.new_page()
    page.goto(running.url)
    running.end()
    page.fill("#prompt", "Hello")
    page.press("#prompt", "Enter")
    expect(page.locator("#offline")).to_be_visible()
    page.close()
