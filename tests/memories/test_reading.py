"""Reads by an id: another namespace that names it changes nothing."""

from pathlib import Path

from pipeline.memory.bank import memory_id
from tests.memories.samples import decision, learned, write
from workers.memories import reading


def test_an_id_stays_in_the_namespace_in_which_it_came_to_be(tmp_path: Path) -> None:
    """Also where another one asks to forget it, which is decided there, and states something under its key."""
    id = memory_id("ann", "Ann likes tea.")
    key = f"{reading.KEY}{id}"
    data = write(
        tmp_path,
        [
            decision(0, "forgotten", "bob", memory_id=id, rule="forget"),
            learned(1, "bob", "Ann likes gin.", key=key),
            learned(2, "ann", "Ann likes tea."),
        ],
    )
    assert [one.namespace for one in reading.find(data, [id])[id]] == ["ann"]
    assert reading.find(data, [id], "bob") == {}
    assert [row["namespace"] for row in reading.history(data, id)] == ["ann"]
    assert reading.history(data, id, "bob") == []
