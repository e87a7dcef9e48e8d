"""A memory as a record of the changelog, and back. Knows both forms; what comes from a topic is checked against its text."""

import numpy as np

from pipeline.memory.record import Memory
from pipeline.text.words import words_of
from schemas.changelog import MemoryRecord
from schemas.common import BadMessage


def to_record(m: Memory) -> MemoryRecord:
    """What is our own needs no check."""
    return MemoryRecord.model_construct(
        memory_id=m.memory_id,
        namespace=m.namespace,
        text=m.text,
        category=m.category,
        source=m.source,
        fact_id=m.fact_id,
        observed_at=m.observed_at,
        learned_at=m.learned_at,
        importance=m.importance,
        uses=m.uses,
        reinforced=m.reinforced,
        loss_delta=m.loss_delta,
        encoder_id=m.encoder_id,
        priors=m.priors.astype("<f4").tobytes(),
        surprisals=m.surprisals.astype("<f4").tobytes(),
        vectors=m.vectors.tobytes(),
    )


def from_record(r: MemoryRecord) -> Memory:
    """Raises BadMessage when what is said of the words does not fit the text."""
    count = len(words_of(r.text))
    if (
        len(r.priors) != 4 * count
        or len(r.surprisals) != 4 * count
        or (len(r.vectors) % count if count else r.vectors)
    ):
        raise BadMessage(
            "invalid-field", f"priors, surprisals and vectors do not fit the text's {count} words"
        )
    said = np.frombuffer(r.priors + r.surprisals, "<f4")
    if not np.isfinite(said).all():
        raise BadMessage("invalid-field", "priors or surprisals are not finite")
    try:
        return Memory(
            r.memory_id,
            r.namespace,
            r.text,
            r.category,
            r.source,
            r.fact_id,
            r.observed_at,
            r.learned_at,
            r.importance,
            r.uses,
            r.reinforced,
            r.loss_delta,
            r.encoder_id,
            count,
            said.astype(np.float32, copy=False).tobytes() + r.vectors,
        )
    except ValueError as error:
        raise BadMessage("invalid-field", str(error)) from None
