"""Rows, ids and records against dictionaries; and a memory's record against the fields that it was made of."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.memory.record import Kind, Memory
from pipeline.memory.table import Ids, Records

AT = datetime(2026, 1, 1, 12, 30, 1, 999_999, tzinfo=UTC)


def named(number: int) -> str:
    return f"{number:032x}"


def memory(number: int, text: str = "The lamp.", **more: object) -> Memory:
    fields: dict[str, object] = {
        "memory_id": named(number), "namespace": "n", "text": text, "category": None, "source": None,
        "fact_id": None, "observed_at": AT, "learned_at": AT, "importance": 1.5, "uses": 0, "reinforced": 0,
        "loss_delta": 2.5, "encoder_id": "e", "priors": np.zeros(2, np.float32), "surprisals": np.ones(2, np.float32),
        "vectors": np.full((2, 3), number % 256, np.uint8),
    }  # fmt: skip
    return Memory(**(fields | more))  # type: ignore[arg-type]


@given(st.lists(st.tuples(st.sampled_from(["add", "remove", "renumber"]), st.integers(0, 60)), max_size=200))
def test_a_row_is_found_by_its_id_and_an_id_by_its_row(steps: list[tuple[str, int]]) -> None:
    ids, rows = Ids(), dict[str, int]()
    for step, number in steps:
        one = named(number)
        if step == "add" and one not in rows:
            rows[one] = ids.add(one)
        elif step == "remove" and one in rows:
            assert ids.remove(one) == rows.pop(one)
        elif step == "renumber":
            held = ids.are_held()
            ids.renumber()
            anew = np.cumsum(held) - 1
            rows = {one: int(anew[row]) for one, row in rows.items()}
        assert ids.held == len(rows) and len(ids) == ids.held + ids.gone
    for number in range(61):
        assert ids.row(named(number)) == rows.get(named(number))
    assert all(ids[row] == one for one, row in rows.items())
    assert np.flatnonzero(ids.are_held()).tolist() == sorted(rows.values())
    some = np.array(sorted(rows.values()), np.uint32)
    assert ids.keys(some).tolist() == [int(ids[row][:8], 16) for row in some.tolist()]


@pytest.mark.parametrize("other", ["", "a", "A" * 32, "zz" * 16, "00 " * 11, "a" * 34, "ü" * 32])
def test_what_is_no_memory_id_is_not_found_and_not_taken(other: str) -> None:
    ids = Ids()
    ids.add("a" * 32)
    assert ids.row(other) is None
    with pytest.raises(ValueError, match="no memory id"):
        ids.add(other)
    with pytest.raises(KeyError):
        ids.remove(other)
    assert len(ids) == ids.held == 1


@dataclass
class Step:
    kind: str
    row: int
    length: int


steps = st.lists(
    st.builds(
        Step, st.sampled_from(["add", "add", "change", "remove"]), st.integers(0, 200), st.integers(1, 40)
    ),
    max_size=200,
)


@given(steps)
def test_records_are_those_that_were_put_there(steps: list[Step]) -> None:
    records, plain = Records(), list[tuple[Kind, bytes]]()
    for step in steps:
        row, record = step.row % max(1, len(plain)), bytes([step.length] * step.length)
        if step.kind == "add":
            plain.append((Kind("n", "e", f"c{step.length % 3}", None), record))
            records.add(*plain[-1])
        elif plain:
            plain[row] = plain[row][0], record if step.kind == "change" else b""
            records.change(row, plain[row][1])
    assert [(records.kind(row), records.record(row)) for row in range(len(plain))] == plain
    kept = records.only(np.array([bool(record) for _, record in plain], bool))
    left = [one for one in plain if one[1]]
    assert [(kept.kind(row), kept.record(row)) for row in range(len(left))] == left


times = st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30)).map(lambda at: at.replace(tzinfo=UTC))
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
counts = st.integers(0, 2**32 - 1)


@given(
    texts, st.none() | texts, times, times, st.none() | times, counts, counts,
    st.floats(allow_nan=False), st.floats(allow_nan=False),
)  # fmt: skip
def test_a_memory_says_what_it_was_made_of(
    text: str, said: str | None, observed: datetime, learned: datetime, used: datetime | None, uses: int,
    reinforced: int, importance: float, loss_delta: float,
) -> None:  # fmt: skip
    one = memory(
        7, text, category=said, source=said, fact_id=said, observed_at=observed, learned_at=learned,
        last_used_at=used, uses=uses, reinforced=reinforced, importance=importance, loss_delta=loss_delta,
    )  # fmt: skip
    assert (one.memory_id, one.namespace, one.encoder_id, one.text) == (named(7), "n", "e", text)
    assert one.category == one.source == one.fact_id == said
    assert (one.observed_at, one.learned_at, one.last_used_at) == (observed, learned, used)
    assert (one.uses, one.reinforced) == (uses, reinforced)
    assert (one.importance, one.loss_delta) == (importance, loss_delta)
    assert one.words == 2
    assert one.priors.tolist() == [0, 0] and one.surprisals.tolist() == [1, 1]
    assert one.vectors.tolist() == [[7] * 3] * 2 and one.states == bytes([7] * 6)
    assert Memory.of(one.memory_id, one.kind, one.record) == one


def test_what_is_decided_of_a_memory_makes_another_one() -> None:
    one, later = memory(7, "The lamp.", fact_id="f"), AT + timedelta(hours=1)
    used = one.changed(3.0, last_used_at=later, uses=1).changed(4.0, last_used_at=AT, uses=2)
    assert (used.uses, used.last_used_at, used.importance, used.observed_at) == (3, later, 4.0, AT)
    again = used.changed(5.0, observed_at=later, reinforced=1).changed(5.5, observed_at=AT, reinforced=1)
    assert (again.reinforced, again.observed_at, again.uses, again.last_used_at) == (2, later, 3, later)
    for changed in (used, again):
        assert (changed.text, changed.fact_id, changed.learned_at) == ("The lamp.", "f", AT)
        assert changed.priors.tolist() == [0, 0] and changed.surprisals.tolist() == [1, 1]
        assert changed.states == one.states and changed.loss_delta == one.loss_delta and changed != one
    assert one.uses == 0 and one.last_used_at is None


def test_a_count_that_is_too_large_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot be held"):
        memory(1, uses=2**32)
