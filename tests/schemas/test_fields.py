"""Columns of fact-encodings, history and checkpoints: pinned, for they are on disk and on topics."""

import pytest

from schemas.encoding import FACT_ENCODINGS
from schemas.fields import FACT, WORDS, required
from schemas.history import CHECKPOINT, HISTORY

PINNED = {
    "FACT_ENCODINGS": """
        kind: string not null
        topic_id: string not null
        partition: int32 not null
        offset: int64 not null
        namespace: string not null
        text: string
        category: string
        source: string
        fact_id: string
        key: string
        cardinality: string
        metadata: string
        observed_at: timestamp[us, tz=UTC]
        valid_until: timestamp[us, tz=UTC]
        published_at: timestamp[us, tz=UTC] not null
        min_loss_delta: float
        forget: string
        encoder_id: string not null
        base_loss: float
        recall_loss: float
        loss_delta: float
        priors: list<item: float>
        surprisals: list<item: float>
        vectors: binary
    """,
    "HISTORY": """
        namespace: string not null
        outcome: string not null
        rule: string
        memory_id: string
        nearest: string
        similarity: float
        text: string
        category: string
        source: string
        fact_id: string
        key: string
        cardinality: string
        metadata: string
        observed_at: timestamp[us, tz=UTC]
        valid_until: timestamp[us, tz=UTC]
        dated: timestamp[us, tz=UTC]
        published_at: timestamp[us, tz=UTC]
        decided_at: timestamp[us, tz=UTC] not null
        base_loss: float
        recall_loss: float
        loss_delta: float
        min_loss_delta: float
        importance: float
        gate: float
        request_id: string
        encoder_id: string
        topic: string not null
        topic_id: string not null
        partition: int32 not null
        offset: int64 not null
        priors: list<item: float>
        surprisals: list<item: float>
        vectors: binary
    """,
    "CHECKPOINT": """
        memory_id: string not null
        namespace: string not null
        text: string not null
        category: string
        source: string
        fact_id: string
        key: string
        cardinality: string
        metadata: string
        observed_at: timestamp[us, tz=UTC] not null
        valid_until: timestamp[us, tz=UTC]
        learned_at: timestamp[us, tz=UTC] not null
        last_used_at: timestamp[us, tz=UTC]
        importance: double not null
        uses: int64 not null
        reinforced: int64 not null
        loss_delta: double not null
        encoder_id: string not null
        superseded_by: string
        rule: string
        priors: list<item: float> not null
        surprisals: list<item: float> not null
        vectors: binary not null
    """,
}
SCHEMAS = {"FACT_ENCODINGS": FACT_ENCODINGS, "HISTORY": HISTORY, "CHECKPOINT": CHECKPOINT}


@pytest.mark.parametrize("name", SCHEMAS)
def test_columns_their_order_types_and_nulls_are_those_on_disk(name: str) -> None:
    columns = [f"{f.name}: {f.type}{'' if f.nullable else ' not null'}" for f in SCHEMAS[name]]
    assert columns == [line.strip() for line in PINNED[name].strip().splitlines()]
    assert all(field.metadata is None for field in SCHEMAS[name])


def test_versions_are_those_on_disk() -> None:
    assert FACT_ENCODINGS.metadata is None
    assert HISTORY.metadata == {b"factstream.history": b"3"}
    assert CHECKPOINT.metadata == {b"factstream.snapshot": b"2"}


def test_required_fields_take_no_nulls_and_the_group_itself_does() -> None:
    assert [f.nullable for f in required(FACT, "text")] == [f.name != "text" for f in FACT]
    assert not any(f.nullable for f in required(WORDS))
    assert all(f.nullable for f in WORDS)
