"""`factstream doctor` on the workers of a running stack, and on records that nobody has read."""

import json
from pathlib import Path
from typing import Any

import orjson
from typer.testing import CliRunner

from pipeline.files import locked
from workers.cli.app import app
from workers.runtime.stack import states, unread

RUNNER = CliRunner()
DOWN: dict[str, Any] = {"ready": False, "deaths": 6, "end": "signal SIGKILL", "restarts_at": 1e9}
UP: dict[str, Any] = {"ready": True, "deaths": 2, "end": "exit code 1"}


def examine(data: Path) -> tuple[dict[str, Any], list[str]]:
    """The report, and what is wrong besides the broker, which does not run."""
    command = ["doctor", "--json", "--data", str(data), "--bootstrap", "127.0.0.1:1"]
    report = json.loads(RUNNER.invoke(app, command).stdout)
    return report, [line for line in report["wrong"] if not line.startswith("broker")]


def test_doctor_tells_which_worker_keeps_ending(tmp_path: Path) -> None:
    with locked(tmp_path / "up.lock"):
        (tmp_path / states.FILE).write_bytes(orjson.dumps({"encoder": DOWN, "writer": UP}))
        report, wrong = examine(tmp_path)
        (line,) = wrong
        assert line.startswith(
            "workers: the encoder ended 6 times in a row, the last time with signal SIGKILL"
        )
        assert "starts again at" in line and "logs/encoder.log" in line and "workers" not in report
        (tmp_path / states.FILE).write_bytes(
            orjson.dumps({"encoder": {"ready": False, "deaths": 0}, "writer": UP})
        )
        report, wrong = examine(tmp_path)
        assert wrong == [] and report["workers"] == "encoder starts, writer is ready"
    assert "workers" not in examine(tmp_path)[0]  # no stack runs: the file is of one that was killed


def test_doctor_tells_of_unread_records_and_of_damaged_files(tmp_path: Path) -> None:
    assert "unread" not in examine(tmp_path)[0]
    unread._write(tmp_path / unread.FOLDER / f"facts{unread.SUFFIX}", [])
    report, wrong = examine(tmp_path)
    assert wrong == [] and report["unread"] == "facts, for the next `factstream up`"
    aside = tmp_path / unread.FOLDER / f"facts{unread.SUFFIX}{unread.DAMAGED}-1"
    aside.write_bytes(b"")
    assert str(aside) in examine(tmp_path)[1][0]
