"""The terminal screen of `factstream watch`."""

import subprocess
import sys
from typing import Any

import pytest
from rich.console import Console

from workers.cli.watch import Screen

ID = "a" * 32


def test_terminal_control_characters_are_not_shown() -> None:
    screen = Screen("127.0.0.1:9092")
    evil = "\x1b[2J\x07[red]lamp[/red]\n\u202e"
    screen.take({
        "time": "now", "lag": {"facts": {"0": 1234, "1": 0}}, "published_per_s": 1.5, "decided_per_s": 0.5,
        "outcomes": {"learned": 2}, "dead_letters": {"invalid-json": 3},
        "decisions": [{"outcome": "learned", "loss_delta": 1.0, "text": evil, "memory_id": ID}],
        "answers": [{"prompt": evil, "text": evil, "error": None, "memories": [{"text": evil, "gate": 0.5}]}],
    })  # fmt: skip
    screen.take({"error": f"no broker answers {evil}"})
    console = Console(width=120, force_terminal=False, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(screen.render())
    text = console.export_text()
    assert not set(text) & set("\x1b\x07\u202e") and "[red]lamp[/red]" in text
    for shown in ("1,234", "1.5 facts/s published", "2 learned", "3 invalid-json", "trying again", "0.50"):
        assert shown in text


@pytest.mark.parametrize("height", [24, 30, 50])
def test_the_screen_fits_the_terminal(height: int) -> None:
    screen = Screen("127.0.0.1:9092")
    many = [
        {"outcome": "learned", "loss_delta": 1.0, "text": f"fact {n} ends", "memory_id": ID}
        for n in range(20)
    ]
    answers: list[dict[str, Any]] = [
        {"prompt": f"prompt {n} ends", "text": "a", "error": None, "memories": []} for n in range(20)
    ]
    lag = {
        topic: {"0": 0}
        for topic in ("facts", "generation-requests", "fact-encodings", "hits", "dead-letters")
    }
    screen.take({
        "time": "now", "lag": lag, "published_per_s": 1.5, "decided_per_s": 0.5, "outcomes": {}, "dead_letters": {},
        "decisions": many, "answers": answers,
    })  # fmt: skip
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(screen.render(height))
    text = console.export_text()
    assert len(text.rstrip("\n").splitlines()) <= height
    assert "fact 19 ends" in text and "prompt 19 ends" in text  # the last ones


def test_no_broker_and_no_terminal_are_one_clear_error_line() -> None:
    for options, message in (
        (["--json", "--bootstrap", "127.0.0.1:9"], "error: no broker answers at 127.0.0.1:9"),
        ([], "error: standard output is not a terminal: use `factstream watch --json`"),
    ):
        command = [sys.executable, "-m", "workers.cli", "watch", *options]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 1 and done.stderr.startswith(message), done.stderr
