"""A memory's packed record against the fields that it was made of."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.memory.record import Memory

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


times = st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30)).map(lambda at: at.replace(tzinfo=UTC))
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
counts = st.integers(0, 2**32 - 1)


@given(
    texts, st.none() | texts, times, times, st.none() | times, counts, counts,
    st.floats(allow_nan=False), st.floats(allow_nan=False),
)  # fmt: skip
def test_a_memory_returns_the_fields_it_was_made_from(
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


def test_a_decision_makes_a_new_memory_record() -> None:
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
