"""The chat of the page without a browser: its forms, its export and its errors, with no broker."""

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest

from tests.http.conftest import Running, serve
from tests.http.test_server import call
from tests.memories.samples import learned, write
from workers.kafka.config import KafkaSettings
from workers.runtime.embedded_broker import free_port


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """On an empty folder, and no broker."""
    running = serve(KafkaSettings(f"127.0.0.1:{free_port()}"), tmp_path_factory.mktemp("none"))
    yield running
    running.end()


def post(running: Running, path: str, **fields: str) -> tuple[int, str]:
    origin = {"Origin": f"http://127.0.0.1:{running.port}", "HX-Request": "true"}
    status, _, body = call(running, "POST", path, origin, urlencode(fields).encode())
    return status, body.decode()


@pytest.mark.parametrize(
    "fields",
    [
        {"said": "   "}, {"said": "x" * 8001}, {"said": "Hi", "name": "x" * 65}, {"said": "Hi", "namespace": "x" * 129},
        {"said": "Hi", "namespace": "a\tb"}, {"said": "a\x1bb", "name": "a\x1bb"},
    ],
)  # fmt: skip
def test_a_bad_message_is_refused_with_what_is_wrong(bare: Running, fields: dict[str, str]) -> None:
    status, body = post(bare, "/chat/say", **fields)
    assert status == 422 and 'class="problem"' in body


def test_a_message_to_no_broker_ends_with_what_to_do(bare: Running) -> None:
    status, body = post(bare, "/chat/say", said="<b>My dog</b> is called Rex.", learn="1", namespace="me")
    assert status == 200 and "&lt;b&gt;My dog" in body
    ticket = body.split('sse-connect="/stream/')[1].split('"')[0]
    _, headers, events = call(bare, "GET", f"/stream/{ticket}")
    assert headers["content-type"].startswith("text/event-stream")
    assert b"event: answer" in events and b"factstream up" in events


def test_what_is_forgotten_needs_an_id_and_a_broker(bare: Running) -> None:
    assert post(bare, "/chat/forget", memory_id="x' or 1=1", namespace="me")[0] == 422
    status, body = post(bare, "/chat/forget", memory_id="0" * 32, namespace="me", text="a")
    assert status == 200 and 'class="problem"' in body


def test_the_memories_of_a_namespace_are_a_file(settings: KafkaSettings, tmp_path: Path) -> None:
    """Of that namespace alone, whatever it is called; and of none is not of all."""
    write(tmp_path, [learned(0, "me", "Ana likes tea."), learned(1, "you", "Ben likes tea.")])
    running = serve(settings, tmp_path)
    for namespace, status, count in (("me", 200, 1), ("me%27%3B--", 200, 0), ("", 422, 0), ("a%00b", 422, 0)):
        got, headers, body = call(running, "GET", f"/chat/memories.jsonl?namespace={namespace}")
        assert got == status and body.count(b'"text"') == count and b"Ben" not in body, body
        assert status != 200 or "attachment" in headers["content-disposition"]
    running.end()
