"""The measurements of speed on a small model: both sides do the same work, and all of it is timed."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
from typer.testing import CliRunner

from pipeline import MemoryLM
from pipeline.bench import encode as bench_encode
from pipeline.bench import generate as bench_generate
from pipeline.bench import peer
from pipeline.bench.synthetic.texts import made_up_facts
from pipeline.ingest.encoder import Encoder
from workers import client
from workers.bench import stream as bench_stream
from workers.cli.app import app
from workers.kafka.config import KafkaSettings

RUNNER = CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"})


def bench(*command: str) -> dict[str, Any]:
    done = RUNNER.invoke(app, ["bench", *command, "--json"])
    assert done.exit_code == 0, done.output
    return dict(orjson.loads(done.stdout))


def test_encode_times_all_facts_on_both_sides_in_every_round(
    gpt2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = Encoder.load(str(gpt2), "cpu")
    encoded: list[list[str]] = []
    passes: list[tuple[int, int, int]] = []  # texts, tokens, batch size
    encode, bare_pass = encoder.encode, bench_encode.bare_pass

    def noted(texts: list[str]) -> Any:
        encoded.append(texts)
        return encode(texts)

    def counted(encoder: Encoder, ids: Any, size: int) -> None:
        passes.append((len(ids), sum(map(len, ids)), size))
        bare_pass(encoder, ids, size)

    monkeypatch.setattr(encoder, "encode", noted)
    monkeypatch.setattr(bench_encode, "bare_pass", counted)
    result = bench_encode.measure(encoder, 80, 2, lambda *_: None)
    facts = made_up_facts(80, 0)
    assert encoded[1:] == [facts, facts]  # the first one warms up
    assert (
        passes[len(bench_encode.BATCH_SIZES) :]
        == [(80, round(80 * result.tokens_a_fact), result.bare_batch)] * 2
    )
    assert result.bare_batch in bench_encode.BATCH_SIZES


def test_the_bare_pass_reads_every_text(gpt2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = Encoder.load(str(gpt2), "cpu")
    seen: list[int] = []
    forward = encoder.backbone.model.forward

    def counted(*given: Any, **named: Any) -> Any:
        seen.append(int(named["attention_mask"].sum()))
        return forward(*given, **named)

    monkeypatch.setattr(encoder.backbone.model, "forward", counted)
    bench_encode.bare_pass(encoder, [[5] * n for n in range(1, 11)], 4)
    assert len(seen) == 3 and sum(seen) == sum(range(1, 11))


def test_encode_prints_its_figures(gpt2: Path) -> None:
    figures = bench("encode", "--model", str(gpt2), "--facts", "64", "--rounds", "1")
    assert figures["facts"] == 64 and figures["rounds"] == 1 and figures["model"] == str(gpt2)
    text = RUNNER.invoke(
        app, ["bench", "encode", "--model", str(gpt2), "--facts", "64", "--rounds", "1"]
    ).stdout
    assert {line.split()[0] for line in text.splitlines()} == set(figures)


@pytest.mark.slow
def test_generate_measures_batches_and_mixed_requests(gpt2: Path) -> None:
    figures = bench("generate", "--model", str(gpt2), "--tokens", "4", "--rounds", "1")
    assert [one["batch"] for one in figures["against_bare"]] == [1, 8] and figures["tokens"] == 4
    mixed = figures["mixed"]
    assert mixed["requests"] == bench_generate.REQUESTS
    assert mixed["first_answer_s"] < mixed["last_answer_s"] <= mixed["together_s"]


def test_both_sides_of_generate_make_the_same_tokens(gpt2: Path) -> None:
    lm = MemoryLM.load(str(gpt2), "cpu")
    prompts = ["The lamp of the", "Bado and rit"]
    ours = [g.text for g in lm.generate(prompts, max_new_tokens=6)]
    assert bench_generate.bare_generate(lm, prompts, 6) == ours


def test_a_peer_that_is_missing_is_named_before_anything_is_loaded(
    gpt2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["bench", "generate", "--peer", "llama.cpp", "--model"]
    monkeypatch.setattr(peer, "find_spec", lambda _: True)
    other = RUNNER.invoke(app, [*arguments, str(gpt2)])
    assert other.exit_code == 1 and "no GGUF file" in other.output
    monkeypatch.setattr(peer, "find_spec", lambda _: None)
    missing = RUNNER.invoke(app, [*arguments, "model.gguf"])
    assert missing.exit_code == 1 and "factstream[peer]" in missing.output


def test_a_peer_continues_the_same_prompts_by_as_many_tokens(
    gpt2: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, int, list[str]]] = []

    class Peer:
        name = "another program"

        @contextmanager
        def serving(self, rows: int, tokens: int) -> Iterator[Any]:
            yield lambda prompts: asked.append((rows, tokens, prompts))

    monkeypatch.setattr(bench_generate, "PEER_BATCHES", (1, 3))
    lm = MemoryLM.load(str(gpt2), "cpu")
    result = bench_generate.measure(lm, (), 4, 1, lambda *_: None, Peer())  # type: ignore[arg-type]
    assert result.peer == "another program"
    assert [one.batch for one in result.against_peer] == [1, 3]
    assert [(rows, tokens, len(prompts)) for rows, tokens, prompts in asked] == [(1, 4, 1)] * 2 + [
        (3, 4, 3)
    ] * 2
    assert len({prompt for _, _, prompts in asked for prompt in prompts}) > 3


@pytest.mark.slow
def test_stream_runs_a_whole_stack(gpt2: Path) -> None:
    figures = bench("stream", "--model", str(gpt2), "--facts", "20", "--rounds", "2")
    assert figures["facts"] == 20 and figures["rounds"] == 2 and figures["model"] == str(gpt2)


def test_stream_refuses_to_time_facts_that_were_not_decided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "publish", lambda *_, **__: client.Published(sent=2))
    with pytest.raises(client.ClientError, match="0 of 2 facts were decided"):
        bench_stream._publish(KafkaSettings(), ["A lamp.", "A desk."])
