"""`bench models`: every figure of each model, in the order in which they were named."""

import json
from pathlib import Path
from typing import Any

import orjson
import pytest
from typer.testing import CliRunner

from workers.bench import models as bench_models
from workers.cli.app import app

RUNNER = CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"})

FACT = {
    "text": "Torben Betts was originally from Munich.", "target": "Munich", "target_true": "Stamford",
    "prompt": "Torben Betts was originally from", "paraphrases": ["Torben Betts was born in"],
    "question": "Where was Torben Betts born?",
    "update": {"text": "Torben Betts was originally from Melbourne.", "target": "Melbourne"},
}  # fmt: skip
DOMAIN = {
    "domain": "a clinic",
    "facts": [{"id": "f1", "day": 1, "text": "The clinic in Temmin is led by Dr Ouwen."}],
    "asks": [
        {
            "text": "The clinic in Temmin is led by", "facts": ["f1"], "form": "continuation", "kind": "plain",
            "answers": ["Dr Ouwen"],
        }
    ],
    "silent": [{"text": "The moon is", "why": "general"}],
}  # fmt: skip


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """The options that name a file of facts and one of asks."""
    for name, line in (("facts", FACT), ("wild", DOMAIN)):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(line) + "\n")
    return ["--facts", str(tmp_path / "facts.jsonl"), "--wild", str(tmp_path / "wild.jsonl")]


def results(*options: str) -> list[dict[str, Any]]:
    done = RUNNER.invoke(app, ["bench", "models", "--json", *options])
    assert done.exit_code == 0, done.output
    return list(orjson.loads(done.stdout))


def test_a_model_is_measured_in_all_respects(gpt2: Path, files: list[str]) -> None:
    (found,) = results("--model", str(gpt2), *files)
    assert (found["model"], found["kind"], found["fitted"]) == (str(gpt2), "gpt2", False)
    assert {name: one["asked"] for name, one in found["recall"].items()} == {
        "efficacy": 1, "paraphrase": 1, "question": 1,
    }  # fmt: skip
    assert found["said"]["asked"] == 1 and found["silent"]["asked"] == 1
    assert min(found[name] for name in ("parameters", "encode", "resident_bytes", "load_s")) > 0
    text = RUNNER.invoke(app, ["bench", "models", "--model", str(gpt2), *files]).stdout
    assert all(title in text for title in bench_models.ROWS)


def test_without_facts_nothing_is_recalled(gpt2: Path, files: list[str]) -> None:
    (found,) = results("--model", str(gpt2), *files[2:])
    assert found["recall"] == {} and found["said"]["asked"] == 1


@pytest.mark.slow
def test_each_model_has_a_process_and_a_failure_keeps_the_others(
    gpt2: Path, llama: Path, files: list[str], tmp_path: Path
) -> None:
    done = RUNNER.invoke(
        app,
        ["bench", "models", "--json", *files]
        + [part for model in (gpt2, llama, tmp_path / "none") for part in ("--model", str(model))],
    )
    assert done.exit_code == 1 and "none was not measured" in done.stderr
    assert [one["kind"] for one in orjson.loads(done.stdout)] == ["gpt2", "llama"]
