"""`factstream chat` on a stack of its own: it learns, answers, takes back, and leaves nothing running."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import runs, wait_until
from tests.helpers.weights import NUMBERS, install
from workers.kafka.config import KafkaSettings
from workers.runtime.supervisor import answers


class Chat:
    """A chat process, driven by lines."""

    def __init__(self, model: Path, data: Path, cache: Path) -> None:
        env = os.environ | {
            "FACTSTREAM_SESSION_TIMEOUT_MS": "1500", "FACTSTREAM_CACHE": str(cache), "FACTSTREAM_MODEL": str(model),
        }  # fmt: skip
        env.pop("FACTSTREAM_BOOTSTRAP", None)
        command = [
            sys.executable,
            "-m",
            "workers.cli",
            "chat",
            "--data",
            str(data),
            "--name",
            "Ana",
            "--json",
        ]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
        )

    def events(self, until: str) -> list[dict[str, Any]]:
        assert self.process.stdout is not None
        found = []
        for line in iter(self.process.stdout.readline, ""):
            found.append(json.loads(line))
            if found[-1]["event"] in (until, "error"):
                break
        assert found and found[-1]["event"] == until, found
        return found

    def say(self, line: str, until: str = "answer") -> list[dict[str, Any]]:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()
        return self.events(until)


def children(pid: int) -> list[int]:
    """All processes below one."""
    found = list[int]()
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, task.read_text().split()):
            found += [child, *children(child)]
    return found


@pytest.fixture
def talking(gpt2: Path, tmp_path: Path) -> Iterator[Chat]:
    if answers(KafkaSettings()):
        pytest.skip("a broker answers at 127.0.0.1:9092, which the chat would use")
    install(gpt2, tmp_path / "cache", NUMBERS._replace(follow=0.0))
    made = Chat(gpt2, tmp_path / "data", tmp_path / "cache")
    yield made
    if made.process.poll() is None:
        made.process.kill()
        made.process.wait()


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_chat_learns_answers_takes_back_and_ends_cleanly(talking: Chat, tmp_path: Path) -> None:
    (ready,) = talking.events("ready")
    assert ready["bootstrap"] != "127.0.0.1:9092" and ready["namespace"] == "me"
    learned, *pieces, answer = talking.say("My parrot is called Gonzalo. What is my parrot called?")
    assert (learned["event"], learned["text"]) == ("learned", "Ana's parrot is called Gonzalo.")
    assert answer["text"] == "".join(piece["delta"] for piece in pieces)
    assert answer["memories"][0]["memory_id"] == learned["memory_id"], "the answer had what was just said"
    (listed,) = talking.say("/memories", "list")
    assert [memory["text"] for memory in listed["memories"]] == ["Ana's parrot is called Gonzalo."]
    (note,) = talking.say("/undo", "note")
    assert note["text"] == "taken back: Ana's parrot is called Gonzalo."
    (note,) = talking.say("/memories", "note")
    assert note["text"] == "nothing is remembered yet"
    below = children(talking.process.pid)
    assert len(below) >= 5  # `up`, the broker and three workers
    talking.process.send_signal(signal.SIGTERM)
    assert talking.process.wait(60) == 0
    wait_until(lambda: not any(map(runs, below)))


def test_a_stack_that_cannot_start_is_explained(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "workers.cli",
        "chat",
        "--data",
        str(tmp_path),
        "--model",
        str(tmp_path / "no-model"),
    ]
    env = {**os.environ, "FACTSTREAM_CACHE": str(tmp_path / "cache")} | {"HF_HUB_OFFLINE": "1"}
    env.pop("FACTSTREAM_BOOTSTRAP", None)
    done = subprocess.run(command, input="Hello!\n", capture_output=True, text=True, env=env, timeout=120)
    assert done.returncode == 1 and done.stdout == ""
    assert (
        "the stack did not start" in done.stderr
        and "no-model" in done.stderr
        and "Traceback" not in done.stderr
    )
