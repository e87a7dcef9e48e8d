"""factstream reencode: the memories of a data folder as facts for another model."""

from pathlib import Path
from typing import Any

import orjson
import pytest

from schemas.fact import Fact, Forget
from tests.bulk.stack import AT, Stack
from tests.client.local_stack import LocalStack
from tests.encode.test_encoder import Model
from workers.bulk.encode import encode
from workers.bulk.reencode import take

FACTS: list[dict[str, Any]] = [
    {
        "text": "Ola lives in Temmin.",
        "key": "home",
        "observed_at": "2026-03-01T00:00:00Z",
        "metadata": {"a": 1},
    },
    {"text": "Torben Betts was from Munich.", "observed_at": "2026-03-01T00:00:00Z"},
    {"text": "Ola has moved to Brask.", "key": "home", "observed_at": "2026-03-02T00:00:00Z"},
    {"text": "Torben Betts was from Perth.", "observed_at": "2026-03-02T00:00:00Z"},
    {"text": "The lamp is red.", "key": "lamp", "observed_at": "2026-03-02T00:00:00Z"},
    {"text": "The lamp is blue.", "key": "lamp", "observed_at": "2026-03-03T00:00:00Z", "fact_id": "f"},
]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    stack = LocalStack(tmp_path / "old")
    published = stack.publish(None, [("default", Fact.model_validate(fact)) for fact in FACTS])
    last = published.decided[-1].memory_id
    assert last is not None
    stack.publish(None, [("default", Forget(forget=last))])
    return tmp_path / "old"


def test_what_speaks_is_carried_and_what_a_key_replaces(data: Path, tmp_path: Path) -> None:
    taken = take(data, tmp_path / "out")
    assert (taken.remembered, taken.superseded, taken.left_out) == (2, 1, 1)
    facts = [orjson.loads(line) for line in taken.facts.read_bytes().splitlines()]
    assert [fact["text"] for fact in facts] == [FACTS[n]["text"] for n in (0, 2, 3)]
    assert facts[0]["metadata"] == {"a": 1} and facts[0]["min_loss_delta"] == 0
    encode(taken.facts, tmp_path / "out", Model(), AT)  # type: ignore[arg-type]
    new = Stack(tmp_path / "new")
    for _ in range(2):
        new.load(tmp_path / "out")
        assert [(d.text, d.outcome, d.rule) for d in new.decisions()] == [
            ("Ola lives in Temmin.", "learned", "new"),
            ("Ola has moved to Brask.", "superseded", "key"),
            ("Torben Betts was from Perth.", "learned", "new"),
        ]


def test_the_snapshot_is_taken_once(data: Path, tmp_path: Path) -> None:
    first = take(data, tmp_path / "out")
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert take(tmp_path / "nothing is here", tmp_path / "out") == first
    assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_an_empty_folder_has_no_memories(tmp_path: Path) -> None:
    taken = take(tmp_path / "none", tmp_path / "out")
    assert (taken.remembered, taken.superseded, taken.left_out) == (0, 0, 0)
    assert encode(taken.facts, tmp_path / "out", Model(), AT).rows == 0  # type: ignore[arg-type]
    Stack(tmp_path / "new").load(tmp_path / "out")
