"""The chat of the page in a headless Chromium: learned, answered, forgotten, downloaded."""

from collections.abc import Callable

import orjson
import pytest
from playwright.sync_api import Page, expect

from tests.http.conftest import LIMIT_MS, Running
from tests.http.test_browser import ui  # noqa: F401

pytestmark = pytest.mark.browser

HOSTILE = "My parrot is called <img src=x onerror=window.pwned=1> Gonzalo."


def say(page: Page, text: str) -> None:
    count = page.locator(".reply:not(.waiting)").count()
    page.fill("#said", text)
    page.press("#said", "Enter")
    expect(page.locator(".reply:not(.waiting)")).to_have_count(count + 1, timeout=LIMIT_MS)


def test_a_message_is_learned_answered_and_forgotten(ui: Running, open_page: Callable[..., Page]) -> None:  # noqa: F811
    page = open_page(ui, "/chat")
    page.fill("[name=name]", "Ana")
    say(page, HOSTILE)
    reply = page.locator(".reply").first
    assert reply.locator(".learned .facttext").inner_text() == HOSTILE.replace("My", "Ana's")
    assert page.locator(".question").last.inner_text() == HOSTILE
    assert page.input_value("#said") == ""
    say(page, "What is my parrot called?")
    answered = page.locator(".reply").last
    source = answered.locator(".sources li").first
    expect(source).to_contain_text("Gonzalo")
    expect(source).to_contain_text("Ana said: My parrot")
    assert answered.locator(".learned").count() == 0
    source.locator("button").click()
    expect(page.locator("dialog[open]")).to_contain_text("Learned")
    page.keyboard.press("Escape")
    with page.expect_download() as download:
        page.click("#chat-export")
    (line,) = download.value.path().read_bytes().splitlines()
    assert orjson.loads(line)["metadata"]["speaker"] == "Ana"
    reply.locator("button.plain").click()
    expect(reply.locator("[role=status]")).to_contain_text("Forgotten", timeout=LIMIT_MS)
    say(page, "What is my parrot called?")
    assert page.locator(".reply").last.locator(".sources").count() == 0
    assert page.evaluate("window.pwned") is None and page.locator("main img").count() == 0


def test_without_learning_nothing_is_learned(ui: Running, open_page: Callable[..., Page]) -> None:  # noqa: F811
    page = open_page(ui, "/chat", 360)
    page.set_checked("[name=learn]", False)
    say(page, "My cat is called Zanzibar.")
    assert page.locator(".reply").last.locator(".learned").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
