"""`factstream memories export` and `import` as commands: whole files, errors of one line."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from schemas.fact import Fact
from tests.client.local_stack import LocalStack
from workers.cli.app import app
from workers.client import importing
from workers.client.importing import Imported
from workers.kafka.config import KafkaSettings

RUNNER = CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"})
TEXTS = ["The Harlow lamp is made of walnut.", "Lake Vorren is deep."]


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "data"
    LocalStack(folder).publish(None, [("default", Fact(text=text)) for text in TEXTS])
    monkeypatch.setenv("FACTSTREAM_DATA", str(folder))
    return folder


def run(*arguments: str, code: int = 0, input: bytes = b"") -> tuple[str, str]:
    result = RUNNER.invoke(app, ["memories", *arguments], input=input)
    assert result.exit_code == code, result.output
    return result.stdout, result.stderr


def test_an_export_is_whole_or_not_there(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "all.jsonl"
    out, _ = run("export", str(file), "--json")
    assert json.loads(out) == {"file": str(file), "remembered": 2, "superseded": 0}
    before = file.read_bytes()
    assert run("export", "-")[0].encode() == before == run("export", "-")[0].encode()
    for wrong in ("all.csv", "all", "."):
        assert ".jsonl or .parquet" in run("export", str(tmp_path / wrong), code=1)[1]
    monkeypatch.setattr("pipeline.query.export.orjson.dumps", lambda *_, **__: 1 / 0)
    assert isinstance(RUNNER.invoke(app, ["memories", "export", str(file)]).exception, ZeroDivisionError)
    assert file.read_bytes() == before and {path.name for path in tmp_path.iterdir()} == {"data", "all.jsonl"}


def test_an_empty_folder_has_an_empty_export(tmp_path: Path) -> None:
    for name in ("a.jsonl", "a.parquet"):
        run("export", str(tmp_path / name), "--data", str(tmp_path / "none"))
        counts = json.loads(run("import", str(tmp_path / name), "--dry-run", "--json")[0])
        assert counts == {"remembered": 0, "superseded": 0, "left_out": 0}


@pytest.mark.usefixtures("data")
def test_a_file_is_checked_before_a_broker_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    def import_memories(settings: KafkaSettings, path: Path, *_: object) -> Imported:
        calls.append(path.read_bytes())
        return Imported()

    calls = list[bytes]()
    monkeypatch.setattr(importing, "import_memories", import_memories)
    good = run("export", "-")[0].encode()
    edited = good.replace(b"deep", b"shallow")
    _, told = run("import", "-", code=1, input=edited)
    assert told.startswith("line 2: memory_id: ") and "1 lines are wrong" in told
    assert json.loads(run("import", "-", "--json", code=1, input=edited + b"x\n")[0])["wrong"] == 2
    assert "2 memories" in run("import", "-", "--dry-run", input=good)[0]
    assert not calls
    run("import", "-", input=good)
    assert calls == [good]


@pytest.mark.usefixtures("data")
def test_a_stopped_import_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def import_memories(*_: object) -> Imported:
        raise KeyboardInterrupt

    monkeypatch.setattr(importing, "import_memories", import_memories)
    assert "the same command goes on" in run("import", "-", code=130, input=run("export", "-")[0].encode())[1]
