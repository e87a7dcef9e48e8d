"""The bulk commands on running stacks: a new model without the stream, and facts from files."""

import json
from pathlib import Path
from typing import Any

import pytest

from schemas.fact import Fact
from tests.client.test_round_trip import CARRIED, FACTS, command, rows
from workers import client
from workers.runtime.supervisor import running

pytestmark = pytest.mark.slow


@pytest.mark.timeout(400)
def test_a_memory_changes_its_model_and_facts_are_loaded(llama: Path, gpt2: Path, tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    carried = f"select {CARRIED} from memories order by all"
    with running(old, str(llama), "cpu") as (settings, _):
        facts: list[Any] = [
            (fact.get("namespace", "default"), Fact.model_validate(fact | {"min_loss_delta": 0.0}))
            for fact in FACTS
        ]
        client.publish(settings, facts, wait=True)
        taken = command(
            settings, old, "reencode", "--model", str(gpt2), "--out", str(tmp_path / "job"), "--json"
        )
        before = rows(old, carried)
    assert taken["remembered"] == len(before) and taken["superseded"] == 1
    (tmp_path / "facts.jsonl").write_text(
        "".join(f'{{"text": "Lake {n} is deep."}}\n' for n in range(300)) + "{\n"
    )
    with running(new, str(gpt2), "cpu") as (settings, _):
        first = command(settings, new, "load", str(tmp_path / "job"), "--json")
        assert first == {
            "job_id": taken["job_id"], "rows": taken["rows"], "sent": taken["rows"], "refused": 0,
        }  # fmt: skip
        assert rows(new, carried) == before
        digest = command(settings, new, "digest")
        assert command(settings, new, "load", str(tmp_path / "job"), "--json") == first
        assert command(settings, new, "digest") == digest
        encode = [
            "encode",
            "--in",
            str(tmp_path / "facts.jsonl"),
            "--out",
            str(tmp_path / "more"),
            "--model",
            str(gpt2),
        ]
        with pytest.raises(AssertionError, match="1 facts were refused"):
            command(settings, new, *encode)
        with pytest.raises(AssertionError, match="1 facts are in the dead letters"):
            command(settings, new, "load", str(tmp_path / "more"))
        job_id = json.loads((tmp_path / "more" / "job.json").read_text())["job_id"]
        decided = f"select count(distinct \"offset\") as n from history where topic_id = '{job_id}'"
        assert rows(new, decided) == [{"n": 300}]
        [letter] = rows(new, 'select topic, "offset", reason, worker from dead_letters')
        assert letter == {"topic": job_id, "offset": 300, "reason": "invalid-json", "worker": "load"}
    encoders = {one["e"] for data in (old, new) for one in rows(data, "select encoder_id as e from memories")}
    assert len(encoders) == 2
