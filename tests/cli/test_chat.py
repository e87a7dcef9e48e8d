"""`factstream chat` with a stand-in for the cluster: both screens, its arguments and its exit code."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.assistant.test_session import Cluster, cluster  # noqa: F401
from workers.cli.app import app
from workers.runtime import supervisor

RUNNER = CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"})
SAID = "I moved to Porto.\n\nMy dog is called Rex. What is my dog called?\n"


def chat(data: Path, said: str, *options: str) -> Any:
    return RUNNER.invoke(
        app,
        ["chat", "--data", str(data), "--bootstrap", "127.0.0.1:1", "--name", "Ana", *options],
        input=said,
    )


def test_every_event_is_a_line_of_json(tmp_path: Path, cluster: Cluster) -> None:  # noqa: F811
    cluster.outcomes = dict.fromkeys(list(cluster.outcomes)[1:], "learned")
    result = chat(tmp_path, SAID + "/why\n/help\n", "--json")
    assert result.exit_code == 0, result.output
    events = [json.loads(line) for line in result.stdout.splitlines()]
    assert [event["event"] for event in events] == [
        "ready", "delta", "answer", "learned", "delta", "answer", "list", "note",
    ]  # fmt: skip
    assert events[3]["text"] == "Ana's dog is called Rex." and events[5]["memories"][0]["gate"] == 0.9


def test_the_terminal_shows_what_was_learned_and_which_memories_spoke(
    tmp_path: Path,
    cluster: Cluster,  # noqa: F811
) -> None:
    result = chat(tmp_path, SAID + "/why\n")
    assert result.exit_code == 0, result.output
    assert "learned: Ana's dog is called Rex." in result.stdout
    assert "Rex.\n" in result.stdout and "memory, gate 0.90: Ana's dog is called Rex." in result.stdout
    assert "Ana said: My dog is called Rex." in result.stdout


def test_the_end_of_the_input_or_quit_ends_the_chat(tmp_path: Path, cluster: Cluster) -> None:  # noqa: F811
    assert chat(tmp_path, "").exit_code == 0
    assert chat(tmp_path, "/quit\nWho am I?\n").exit_code == 0 and cluster.asked == []


def test_a_message_that_fails_is_told_by_the_exit_code(tmp_path: Path, cluster: Cluster) -> None:  # noqa: F811
    result = chat(tmp_path, "/nope\nHello!\n", "--json")
    assert (
        result.exit_code == 1 and '"event":"error"' in result.stdout and '"event":"answer"' in result.stdout
    )


@pytest.mark.parametrize("options", [("--namespace", ""), ("--name", " "), ("--name", "x" * 65)])
def test_a_bad_name_is_refused_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, str]
) -> None:
    monkeypatch.setattr(supervisor, "running", lambda *_, **__: pytest.fail("it must not start"))
    result = RUNNER.invoke(app, ["chat", "--data", str(tmp_path), *options], input="Hello!\n")
    assert result.exit_code == 1 and result.stderr.startswith("error: ")
