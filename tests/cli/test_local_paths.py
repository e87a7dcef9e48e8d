"""URLs where a file or folder of this machine is meant: one clear line, and no folder of that name."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from workers.cli.app import app

URL = "s3://facts/job"
GIVEN = [
    ["encode", "--in", URL, "--out", "job"],
    ["encode", "--in", "facts.jsonl", "--out", URL],
    ["reencode", "--data", "data", "--model", "default", "--out", URL],
    ["load", URL],
    ["memories", "export", f"{URL}.jsonl", "--data", "data"],
    ["memories", "import", f"{URL}.jsonl"],
]


@pytest.mark.parametrize("arguments", GIVEN)
def test_a_url_is_no_file_of_this_machine(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_COLOR", "1")
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 2
    assert "has to be on this machine" in " ".join(done.output.replace("│", " ").split())
    assert list(tmp_path.iterdir()) == []
