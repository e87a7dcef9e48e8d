"""Export from one stack, and import into an empty one with another model, by the commands."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.query import run as query
from schemas.fact import Fact, FactMessage, Forget
from workers import client
from workers.kafka.config import KafkaSettings
from workers.runtime.supervisor import running

pytestmark = pytest.mark.slow

AT = "2026-03-0{}T12:00:00Z"
FACTS: list[dict[str, Any]] = [
    {
        "text": "Ola Fennimore lives in Temmin.",
        "key": "home",
        "observed_at": AT.format(1),
        "metadata": {"sku": "h-1"},
    },
    {"text": "The Zephyr kettle ships from Gdansk.", "observed_at": AT.format(1), "source": "erp"},
    {"text": "Ola has moved to Brask for good.", "key": "home", "observed_at": AT.format(2)},
    {"text": "The Zephyr kettle ships from Tromso.", "observed_at": AT.format(2), "fact_id": "erp-2"},
    {"text": "Ola speaks Frisian.", "key": "speaks", "cardinality": "many", "namespace": "people/ola"},
    {"text": "Ola speaks Danish.", "key": "speaks", "cardinality": "many", "namespace": "people/ola"},
    {"text": "The Harlow lamp is sold until May.", "valid_until": AT.format(9), "category": "catalogue"},
    {"text": "The Harlow lamp is sold until May.", "category": "catalogue"},
    {"text": "What nobody should remember."},
]
CARRIED = "namespace, memory_id, text, category, source, key, cardinality, metadata, observed_at, valid_until"


def command(settings: KafkaSettings, data: Path, *arguments: str) -> Any:
    """The JSON that a command prints."""
    env = os.environ | {"FACTSTREAM_BOOTSTRAP": settings.bootstrap, "FACTSTREAM_DATA": str(data)}
    done = subprocess.run(
        [sys.executable, "-m", "workers.cli", *arguments],
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout) if "--json" in arguments else done.stdout.strip()


def rows(data: Path, sql: str) -> list[Any]:
    found: list[Any] = query.run(data, sql).to_pylist()
    return found


@pytest.mark.timeout(400)
@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_a_memory_moves_to_another_model(llama: Path, gpt2: Path, tmp_path: Path, suffix: str) -> None:
    source, target, file = tmp_path / "source", tmp_path / "target", str(tmp_path / f"all.{suffix}")
    carried = f"select {CARRIED} from memories order by all"
    with running(source, str(llama), "cpu") as (settings, _):
        facts: list[tuple[str, FactMessage]] = [
            (fact.get("namespace", "default"), Fact.model_validate(fact | {"min_loss_delta": 0.0}))
            for fact in FACTS
        ]
        client.publish(settings, facts, wait=True)
        [last] = rows(source, "select memory_id from memories where text like 'What nobody%'")
        client.publish(settings, [("default", Forget(forget=last["memory_id"]))], wait=True)
    counts = command(settings, source, "memories", "export", file, "--json")
    before = rows(source, carried)
    assert counts["remembered"] == len(before) == 5 and counts["superseded"] == 2
    with running(target, str(gpt2), "cpu") as (settings, _):
        first = command(settings, target, "memories", "import", file, "--json")
        assert (first["remembered"], first["superseded"], first["left_out"]) == (5, 2, 0)
        assert rows(target, carried) == before
        digest = command(settings, target, "digest")
        again = command(settings, target, "memories", "import", file, "--json")
        assert again["outcomes"] == {"duplicate": 7}
        assert command(settings, target, "digest") == digest
    encoders = {
        one["e"] for data in (source, target) for one in rows(data, "select encoder_id as e from memories")
    }
    assert len(encoders) == 2  # the texts were encoded anew
    assert rows(target, "select memory_id, superseded_by from superseded order by all") == rows(
        source, "select memory_id, superseded_by from superseded order by all"
    )
