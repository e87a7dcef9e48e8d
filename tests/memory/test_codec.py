"""The codec: decisions, memories and changelog records are read as they were written, or refused."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.memory.codec import (
    decisions_from_table,
    decisions_to_table,
    memories_from_batch,
    memories_to_batch,
    memory_from_decision,
    memory_from_record,
    memory_to_record,
)  # fmt: skip
from pipeline.memory.events import Decision, SourceOffset
from schemas.changelog import MemoryRecord
from schemas.common import BadMessage, decode, encode
from schemas.history import HISTORY

AT = datetime(2026, 1, 2, tzinfo=UTC)


def learned(**more: Any) -> Decision:
    numbers = np.array([1.5, 2.5], np.float32)
    decision = Decision(
        "n", "learned", SourceOffset("facts", "t", 3, 9), AT, memory_id="a" * 32, text="The lamp.", observed_at=AT,
        loss_delta=2.0, importance=1.25, encoder_id="e", priors=numbers, surprisals=numbers + 1,
        vectors=np.array([[1, 2], [3, 4]], np.uint8), category="c", fact_id="f",
    )  # fmt: skip
    return replace(decision, **more)


def test_a_learned_memory_has_the_fields_of_its_decision() -> None:
    memory = memory_from_decision(learned())
    assert (memory.text, memory.category, memory.source, memory.fact_id) == ("The lamp.", "c", None, "f")
    assert (memory.learned_at, memory.uses, memory.reinforced, memory.last_used_at) == (AT, 0, 0, None)
    assert memory.priors.tolist() == [1.5, 2.5] and memory.vectors.tolist() == [[1, 2], [3, 4]]


def test_memories_survive_a_checkpoint_and_the_changelog() -> None:
    used = memory_from_decision(learned()).changed(2.0, last_used_at=AT, uses=3)
    empty = memory_from_decision(
        learned(
            text="…",
            priors=np.zeros(0, np.float32),
            surprisals=np.zeros(0, np.float32),
            vectors=np.zeros((0, 0), np.uint8),
        )
    )
    assert list(memories_from_batch(memories_to_batch([used, empty]))) == [used, empty]
    record = decode(MemoryRecord, encode(memory_to_record(empty)))
    assert memory_from_record(record) == empty
    unused = memory_from_record(decode(MemoryRecord, encode(memory_to_record(used))))
    assert unused.uses == 3 and unused.last_used_at is None, "replicas do not need it"


@pytest.mark.parametrize(
    "field", ["memory_id", "observed_at", "importance", "encoder_id", "priors", "vectors"]
)
def test_a_fact_without_a_required_field_is_not_learned(field: str) -> None:
    lacking = learned(**{field: None} | ({"vectors": None} if field == "priors" else {}))
    with pytest.raises(ValueError, match=field):
        memory_from_decision(lacking)
    with pytest.raises(ValueError, match=field):
        decisions_from_table(decisions_to_table([learned(), lacking]), erased=False)


def test_an_erased_text_may_be_missing_where_the_file_says_so() -> None:
    blank = learned(text=None, priors=None, surprisals=None, vectors=None)
    table = decisions_to_table([blank])
    assert decisions_from_table(table, erased=True) == [blank]
    with pytest.raises(ValueError, match="text"):
        decisions_from_table(table, erased=False)


def test_vectors_without_words_and_nulls_are_refused() -> None:
    table = decisions_to_table([learned()])
    for name, match in (("priors", "no words"), ("namespace", "null in namespace")):
        field = HISTORY.field(name)
        nulls = table.set_column(HISTORY.get_field_index(name), field, pa.nulls(1, field.type))
        with pytest.raises(ValueError, match=match):
            decisions_from_table(nulls, erased=True)


def test_a_record_whose_numbers_do_not_fit_its_text_is_refused() -> None:
    record = memory_to_record(memory_from_decision(learned()))
    for field, value in (("priors", b""), ("surprisals", record.surprisals * 2), ("vectors", b"123")):
        with pytest.raises(BadMessage, match="2 words"):
            memory_from_record(record.model_copy(update={field: value}))
    infinite = np.array([1, np.inf], "<f4").tobytes()
    with pytest.raises(BadMessage, match="finite"):
        memory_from_record(record.model_copy(update={"priors": infinite}))
