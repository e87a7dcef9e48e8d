"""Tests of the measurement of retrieval, beside scoring every memory."""

from itertools import islice
from pathlib import Path

import orjson
import pytest
from typer.testing import CliRunner

from pipeline.bench import retrieve as bench_retrieve
from pipeline.bench.synthetic.banks import variants
from pipeline.bench.synthetic.texts import made_up_facts, prompts_for
from pipeline.memory.bank import Bank
from tests.retrieve.samples import encoding, prompt_encoding
from workers.cli.app import app


def test_retrieve_prints_each_measure_beside_its_limit(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, few in (("ENCODED", 60), ("PROMPTS", 9), ("TOGETHER", 3), ("EXHAUSTIVE_TIMED", 1)):
        monkeypatch.setattr(bench_retrieve, name, few)
    result = CliRunner().invoke(
        app, ["bench", "retrieve", "--memories", "1200", "--model", str(llama), "--json"]
    )
    assert result.exit_code == 0, result.output
    printed = orjson.loads(result.stdout)
    measures = {m["name"]: m for m in printed["measures"]}
    assert [m["limit"] for m in printed["measures"]] == [0.99, 10, 20, 4, 1536], "those of a small bank"
    # So few memories may fit into what the process has free already.
    assert all(m["value"] > 0 for name, m in measures.items() if "bytes" not in name)
    assert measures["recall of the exhaustive best 3"]["value"] <= 1
    assert printed["memories"] == 1200 and printed["encoded"] == 60 and printed["prompts"] == 9
    assert [at["memories"] for at in printed["curve"]] == [1000, 1200]
    assert all(0 < at["median_ms"] <= at["p99_ms"] for at in printed["curve"])


def test_exhaustive_scoring_finds_what_a_small_bank_holds() -> None:
    facts = [encoding(fact) for fact in made_up_facts(60, 3)]
    bank = Bank()
    for one in islice(
        variants(facts, bench_retrieve.NAMESPACE, 1), 100
    ):  # fewer than are candidates: both see all
        bank.put(one)
    prompts = [prompt_encoding(prompts_for(fact.text)[0]) for fact in facts[:10]]
    _, found = bench_retrieve.one_by_one(bank, prompts)
    every = bench_retrieve.exhaustive(bank, prompts, lambda *_: None)
    for hits, best in zip(found, every, strict=True):
        assert [h.memory.memory_id for h in hits] == [h.memory.memory_id for h in best]
        assert [h.score for h in hits] == pytest.approx([h.score for h in best], rel=bench_retrieve.TOLERANCE)
