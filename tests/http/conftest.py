"""A running server of the web page, and a headless Chromium to drive it.

`make browser` finds or installs a Chromium; CHROMIUM names another. Without one the tests that need it are
skipped, and fail in CI.
"""

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests.conftest import wait_until
from workers.http import server
from workers.kafka.config import KafkaSettings
from workers.runtime.signals import Stop

LIMIT_MS = 60_000
BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")


@dataclass
class Running:
    """A server of the page on a thread, at a port of its own."""

    url: str
    stop: Stop
    thread: threading.Thread

    @property
    def port(self) -> int:
        return int(self.url.split(":")[2].strip("/"))

    def end(self) -> None:
        self.stop.set()
        self.thread.join(30)
        assert not self.thread.is_alive()


def serve(settings: KafkaSettings, data: Path, token: str | None = None) -> Running:
    urls, stop = list[str](), Stop()
    arguments = (settings, data, "127.0.0.1", 0, stop, urls.append, token)
    thread = threading.Thread(target=server.serve, args=arguments)
    thread.start()
    wait_until(lambda: urls or not thread.is_alive())
    return Running(urls[0], stop, thread)


@pytest.fixture(scope="module")  # while Playwright runs, no other test can start an event loop
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
        page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
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
