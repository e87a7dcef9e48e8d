"""The table against dictionaries: rows by id, ids by row, and records that stay in step with both."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.memory.record import Memory
from pipeline.memory.table import Table
from tests.memory.samples import id_of, memory

KINDS = ["add", "add", "add", "change", "remove", "compact"]
steps = st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, 90), st.integers(0, 40)), max_size=250)


@given(steps)
def test_ids_rows_and_records_stay_in_step(steps: list[tuple[str, int, int]]) -> None:
    table, rows, memories = Table(), dict[int, int](), dict[int, Memory]()
    for step, number, length in steps:
        one = memory(number, "x" * length, category=f"c{length % 3}")
        if step == "add" and number not in rows:
            rows[number], memories[number] = table.add(one), one
        elif step == "change" and number in rows:
            memories[number] = memories[number].changed(float(length), uses=length % 2)
            table.change(memories[number])
        elif step == "remove" and number in rows:
            assert table.remove(id_of(number)) == rows.pop(number)
            del memories[number]
        elif step == "compact":
            renumbered = np.cumsum(table.compact()) - 1
            rows = {number: int(renumbered[row]) for number, row in rows.items()}
            assert table.removed == 0
        assert table.size == len(rows) and len(table) == table.size + table.removed
    for number in range(91):
        assert table.row(id_of(number)) == rows.get(number)
        assert table.get(id_of(number)) == memories.get(number)
    assert all(table.at(row) == memories[number] for number, row in rows.items())
    assert list(table) == [memories[number] for number in sorted(rows, key=rows.__getitem__)]
    assert np.flatnonzero(table.present()).tolist() == sorted(rows.values())
    some = np.array(sorted(rows.values()), np.uint32)
    assert table.id_prefixes(some).tolist() == [int(table.id_of(row)[:8], 16) for row in some.tolist()]


def test_a_record_that_grows_moves_the_others_of_its_block() -> None:
    table, memories = Table(), [memory(number, "x" * (number % 7)) for number in range(100)]
    for one in memories:
        table.add(one)
    for number in (0, 31, 32, 50, 99):
        memories[number] = memories[number].changed(1.0, uses=1)
        table.change(memories[number])
    assert list(table) == memories


@pytest.mark.parametrize("other", ["", "a", "A" * 32, "zz" * 16, "00 " * 11, "a" * 34, "ü" * 32])
def test_invalid_memory_ids_are_neither_found_nor_added(other: str) -> None:
    table, one = Table(), memory(7, "x")
    table.add(one)
    assert table.row(other) is None and table.get(other) is None
    with pytest.raises(ValueError, match="not a memory id"):
        table.add(Memory.of(other, one.kind, one.record))
    with pytest.raises(KeyError):
        table.remove(other)
    with pytest.raises(KeyError):
        table.change(Memory.of(other, one.kind, one.record))
    assert len(table) == table.size == 1 and list(table) == [one]
