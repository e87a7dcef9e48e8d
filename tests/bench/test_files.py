"""The measurements' input files: an error names the file, the line and what is wrong there."""

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pipeline.bench.files import BenchFileError, read_facts, read_talks
from tests.bench.test_recall import ROWS, written
from workers.cli.app import app

RUNNER = CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"})
ROW = ROWS[0]


@pytest.mark.parametrize(
    "line, wrong",
    [
        ({"text": "A lamp."}, "line 2: target"),
        (ROW | {"paraphrases": []}, "line 2: paraphrases"),
        (ROW, "line 2: the same text as in line 1"),
    ],
)
def test_the_error_names_the_wrong_line(tmp_path: Path, line: dict[str, Any], wrong: str) -> None:
    file = written(tmp_path, [ROW, line])
    with pytest.raises(BenchFileError, match=wrong):
        read_facts(file)
    result = RUNNER.invoke(app, ["bench", "recall", "--facts", str(file)])
    assert result.exit_code == 1 and not result.stdout
    assert str(file) in result.stderr and wrong in result.stderr


def test_the_error_names_a_file_that_is_damaged_empty_or_missing(tmp_path: Path) -> None:
    file = tmp_path / "talk.jsonl"
    file.write_text("{]\n")
    with pytest.raises(BenchFileError, match=r"talk\.jsonl, line 1"):
        read_talks(file)
    file.write_text("\n")
    with pytest.raises(BenchFileError, match="no line"):
        read_talks(file)
    result = RUNNER.invoke(app, ["bench", "talk", "--talk", str(tmp_path / "missing")])
    assert result.exit_code == 1 and "missing" in result.stderr
