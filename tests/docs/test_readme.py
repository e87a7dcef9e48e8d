"""The README is true: its Python compiles, and its commands, topics, variables and queries exist."""

import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from pipeline.query import run as query
from schemas import topics
from workers.cli.app import app
from workers.kafka.config import KafkaSettings

ROOT = Path(__file__).parent.parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"(?:<!-- (\w+) -->\n)?```python\n(.*?)```", README, re.DOTALL)
COMMANDS = sorted(
    set(re.findall(r"^    factstream (.+?)(?:\s+#.*)?$|`factstream ([a-z][^`]*)`", README, re.M))
)


def test_the_readme_has_producers_a_consumer_a_chat_and_the_library() -> None:
    assert sorted(mark for mark, _ in BLOCKS) == ["", "", "consumer", "producer", "producer"]


@pytest.mark.parametrize("mark, code", BLOCKS)
def test_python_compiles_and_names_topics_that_exist(mark: str, code: str) -> None:
    compile(code, "README.md", "exec")
    assert len(code.split("\n\n", 1)[-1].splitlines()) <= 8
    if mark:
        assert any(f'"{topic.name}"' in code for topic in topics.TOPICS)


@pytest.mark.parametrize("line", [" ".join((one or other).split()) for one, other in COMMANDS])
def test_every_command_and_its_options_exist(line: str) -> None:
    words = shlex.split(line)
    runner = CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"})
    path = words[:2] if words[0] in ("memories", "model", "schemas", "bench") else words[:1]
    result = runner.invoke(app, [*path, "--help"])
    assert result.exit_code == 0, f"there is no command {' '.join(path)}"
    for option in (word for word in words if word.startswith("--")):
        assert option in result.output


def test_the_command_line_has_no_command_that_the_readme_hides() -> None:
    commands = get_command(app).commands  # type: ignore[attr-defined]
    hidden = {name for name in commands if f"factstream {name}" not in README} - {"demo"}
    assert not hidden


@pytest.mark.parametrize("sql", re.findall(r'factstream query "([^"]+)"', README))
def test_every_query_runs(tmp_path: Path, sql: str) -> None:
    assert query.run(tmp_path, sql).num_rows == 0


def test_every_topic_has_its_row() -> None:
    section = README.split("## Topics")[1].split("## ")[0]
    assert re.findall(r"^\| ([a-z-]+) \|", section, re.M)[1:] == [topic.name for topic in topics.TOPICS]


def test_every_environment_variable_of_the_code_has_its_row() -> None:
    code = "".join(
        path.read_text() for folder in ("pipeline", "workers") for path in (ROOT / folder).rglob("*.py")
    )
    settings = KafkaSettings(sasl_mechanism="PLAIN", username="u", password="p", ca_file="f",
        security_protocol="SSL", cert_file="f", key_file="f", oauth_url="u", oauth_scope="s", instance="i",
    )  # fmt: skip
    used = set(re.findall(r"FACTSTREAM_[A-Z]+(?:_[A-Z]+)*", code)) | set(settings.env())
    named = set(re.findall(r"FACTSTREAM_[A-Z_]+", README.split("## Settings")[1].split("## ")[0]))
    between = {"FACTSTREAM_READY_FD", "FACTSTREAM_ALONE"}  # a supervisor and its workers
    assert named == used - between
