"""Facts and requests that no worker has read when `factstream up` is stopped, with the real workers."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.query import run as query
from pipeline.store.place import folder_of
from schemas.topics import FACTS, GENERATION_REQUESTS, GENERATION_RESPONSES
from tests.buckets import servers
from tests.conftest import wait_until
from workers.kafka import TopicPartition
from workers.kafka.config import KafkaSettings
from workers.runtime.embedded_broker import free_port
from workers.runtime.stack import unread


def start(place: str, model: Path) -> tuple[subprocess.Popen[str], KafkaSettings, dict[str, int]]:
    """`up`, its settings and the process ids of its workers."""
    port = free_port()
    command = [sys.executable, "-m", "workers.cli", "up", "--json", "--data", place]
    command += ["--model", str(model), "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    pids: dict[str, int] = json.loads(process.stdout.readline())["pids"]
    return process, KafkaSettings(f"127.0.0.1:{port}"), pids


def stop(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 0


def responses(settings: KafkaSettings) -> list[dict[str, Any]]:
    consumer = settings.consumer()
    tps = [TopicPartition(GENERATION_RESPONSES, number) for number in range(4)]
    consumer.assign(tps)
    consumer.seek_to_beginning()
    found: list[dict[str, Any]] = []

    def poll() -> bool:
        for some in consumer.poll(timeout_ms=100).values():
            found.extend(json.loads(record.value) for record in some)
        return bool(found)

    wait_until(poll, 60)
    consumer.close(autocommit=False)
    return found


@pytest.fixture(params=["folder", "store"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The history: a folder, or a store of which this machine has a folder."""
    if request.param == "folder":
        yield str(tmp_path / "data")
        return
    server = servers.start("moto", tmp_path / "moto")
    for name, value in (server.env | {"FACTSTREAM_CACHE": str(tmp_path / "cache")}).items():
        monkeypatch.setenv(name, value)
    yield f"{server.url}/kept"
    server.stop()


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_unread_facts_are_learned_and_unread_requests_answered_at_the_next_start(
    place: str, llama: Path
) -> None:
    data = folder_of(place)
    first, settings, pids = start(place, llama)
    for name in ("encoder", "generator"):
        os.kill(pids[name], signal.SIGSTOP)  # they read nothing any more, and are killed in the end
    producer = settings.producer()
    for number in range(20):
        fact = {"text": f"The lamp of hall {number} is blue.", "min_loss_delta": -1e6}
        producer.send(FACTS, json.dumps(fact).encode(), b"default")
    producer.send(GENERATION_REQUESTS, b'{"prompt": "The lamp", "max_new_tokens": 2}', b"asked-before")
    producer.flush_or_raise()
    producer.close()
    stop(first)
    assert {path.name.split(".")[0] for path in unread.files(data)} == {FACTS, GENERATION_REQUESTS}

    second, settings, _ = start(place, llama)
    (answer,) = responses(settings)
    assert answer["request_id"] == "asked-before" and "error" not in answer
    stop(second)
    texts = query.run(data, "select text from history where outcome <> 'used' order by text").column("text")
    assert texts.to_pylist() == sorted(f"The lamp of hall {number} is blue." for number in range(20))
    assert unread.files(data) == []
