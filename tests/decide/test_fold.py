"""The fold: one memory in the bank, from a checkpoint and in SQL, whatever facts and requests come."""

import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import Settings
from pipeline.history import checkpoint, compaction, layout
from pipeline.history import log as history
from pipeline.memory.bank import Bank, fold, memory_id
from pipeline.memory.events import Decision
from pipeline.query import run as query
from tests.decide.samples import START, forget, restore, tell

SETTINGS = Settings(capacity=4, remembered_superseded=3)
TEXTS = [
    f"The {what} of Ola is {value}." for what in ("home", "tongue") for value in ("Temmin", "Brask", "Ulish")
]
KEYS = [None, "a", "b"]

facts = st.fixed_dictionaries(
    {
        "text": st.sampled_from(TEXTS),
        "key": st.sampled_from(KEYS),
        "cardinality": st.sampled_from([None, None, "many"]),
        "at": st.integers(0, 30),
        "loss_delta": st.sampled_from([0.1, 4.0, 4.0, 4.0]),
        "metadata": st.sampled_from([None, '{"n":1}']),
        "valid_until": st.sampled_from([None, START, START + timedelta(days=1)]),
    }
)
memories = st.builds(memory_id, st.just("default"), st.sampled_from(TEXTS), st.sampled_from(KEYS))
whens = st.none() | st.integers(0, 30)
steps = st.one_of(
    facts.map(lambda fields: ("tell", fields)),
    facts.map(lambda fields: ("tell", fields)),
    memories.map(lambda one: ("restore", {"memory_id": one})),
    memories.map(lambda one: ("forget", {"memory_id": one})),
    st.builds(lambda key, at: ("forget", {"key": key, "at": at}), st.sampled_from(["a", "b"]), whens),
    st.builds(lambda at: ("forget", {"at": at}), whens),
)


def played(script: list[tuple[str, dict[str, Any]]]) -> list[list[Decision]]:
    """The decisions about each step."""
    bank, act = Bank(SETTINGS), {"tell": tell, "forget": forget, "restore": restore}
    return [act[kind](bank, offset, **fields) for offset, (kind, fields) in enumerate(script)]  # type: ignore[operator]


@settings(max_examples=60)
@given(st.lists(steps, min_size=1, max_size=25), st.integers(0, 24))
def test_bank_checkpoint_and_views_agree(script: list[tuple[str, dict[str, Any]]], kept: int) -> None:
    decided = played(script)
    bank = fold((d for some in decided for d in some), SETTINGS)
    with tempfile.TemporaryDirectory() as name:
        data, at = Path(name), min(kept, len(decided) - 1)
        for version, some in enumerate(decided):
            history.append(data, 0, version, some)
            if version == at:
                folded = fold((d for before in decided[: at + 1] for d in before), SETTINGS)
                assert checkpoint.write(data, 0, version, some, folded)
        if at > 2:
            compaction.merge(layout.live_files(data, 0)[: at - 1], 1 << 20)
        start = checkpoint.read(data, 0, SETTINGS)
        assert start is not None
        for _, some in history.read(data, 0, start.version):
            for decision in some:
                start.bank.apply(decision)
        assert start.bank.digest() == bank.digest()
        assert start.bank.decided_state("default") == bank.decided_state("default")
        assert list(start.bank.superseded("default")) == list(bank.superseded("default"))
        for key in ("a", "b"):
            space = start.bank.namespace("default")
            entries = [one.memory for one in bank.superseded("default") if one.memory.key == key]
            assert space and space.superseded_of_key(key) == entries
        found = query.run(data, "SELECT * FROM memories ORDER BY memory_id").to_pylist()
        then = query.run(data, f"SELECT * FROM memories_at('{START}') ORDER BY memory_id").to_pylist()
        gone = query.run(data, "SELECT memory_id, superseded_by, rule FROM superseded").to_pylist()
    expected = sorted(bank.memories("default"), key=lambda memory: memory.memory_id)
    for rows in (found, then):
        assert [row["memory_id"] for row in rows] == [memory.memory_id for memory in expected]
        for memory, row in zip(expected, rows, strict=True):
            del row["importance"]
            assert row == {name: getattr(memory, name) for name in row}
    listed = {(row["memory_id"], row["superseded_by"], row["rule"]) for row in gone}
    assert {(one.memory.memory_id, one.by, one.rule) for one in bank.superseded("default")} <= listed
