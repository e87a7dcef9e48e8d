"""The measurements of speed on small models: each tells every figure beside its limit, and compares what is alike."""

from pathlib import Path
from typing import Any

import orjson
import pytest
from typer.testing import CliRunner

from pipeline import MemoryLM
from pipeline.bench import encode as bench_encode
from pipeline.bench import generate as bench_generate
from pipeline.ingest.encoder import Encoder
from workers.cli.app import app

RUNNER = CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"})


def told(*command: str) -> dict[str, Any]:
    done = RUNNER.invoke(app, ["bench", *command, "--json"])
    assert done.exit_code == 0, done.output
    return dict(orjson.loads(done.stdout))


def test_encode_tells_its_limit(gpt2: Path) -> None:
    result = told("encode", "--model", str(gpt2), "--facts", "64", "--rounds", "1")
    assert result["facts"] == 64 and result["bare_batch"] in bench_encode.BATCHES
    assert result["of_bare"] == pytest.approx(result["encode"] / result["bare"])


def test_the_bare_pass_reads_every_text(gpt2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = Encoder.load(str(gpt2), "cpu")
    seen: list[int] = []
    forward = encoder.backbone.model.forward

    def counted(*given: Any, **named: Any) -> Any:
        seen.append(int(named["attention_mask"].sum()))
        return forward(*given, **named)

    monkeypatch.setattr(encoder.backbone.model, "forward", counted)
    bench_encode._bare(encoder, [[5] * n for n in range(1, 11)], 4)
    assert len(seen) == 3 and sum(seen) == sum(range(1, 11))


@pytest.mark.slow
def test_generate_tells_its_limits(gpt2: Path) -> None:
    result = told("generate", "--model", str(gpt2), "--tokens", "4", "--rounds", "1")
    assert [one["batch"] for one in result["against_bare"]] == [1, 8]
    for one in result["against_bare"]:
        assert one["of_bare"] == pytest.approx(one["memory"] / one["bare"])
    mixed = result["mixed"]
    assert mixed["times_as_fast"] == pytest.approx(mixed["in_turn_s"] / mixed["together_s"])
    assert 0 < mixed["first_answer_s"] < mixed["last_answer_s"] <= mixed["together_s"]


def test_both_sides_of_generate_make_the_same_tokens(gpt2: Path) -> None:
    lm = MemoryLM.load(str(gpt2), "cpu")
    prompts = ["The lamp of the", "Bado and rit"]
    (ours, other) = (g.text for g in lm.generate(prompts, max_new_tokens=6))
    assert bench_generate._bare(lm, prompts, 6) == [ours, other]


@pytest.mark.slow
def test_stream_runs_a_whole_stack(gpt2: Path) -> None:
    result = told("stream", "--model", str(gpt2), "--facts", "20", "--rounds", "2")
    assert result["facts"] == 20 and result["rounds"] == 2
    assert min(result[name] for name in ("stream", "encode", "of_encode", "ready_s", "load_s")) > 0
