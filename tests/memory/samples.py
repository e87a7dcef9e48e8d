"""Small memories for the tests of tables and indexes: any text, ids by number, states as given."""

from collections.abc import Iterable
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from pipeline.ingest.quantize import pack
from pipeline.memory.namespace import Namespace
from pipeline.memory.record import Memory
from pipeline.text.words import split

AT = datetime(2026, 1, 1, tzinfo=UTC)


def id_of(number: int) -> str:
    return f"{number:032x}"


def memory(
    number: int,
    text: str,
    state: NDArray[np.float32] | None = None,
    category: str | None = None,
    importance: float = 0.0,
) -> Memory:
    """state: [d] what each word's state is; none: words without states."""
    words = len(split(text))
    weights = np.ones(words, np.float32)
    vectors = np.zeros((words, 0), np.uint8) if state is None else pack(np.repeat(state[None], words, 0))
    return Memory(
        memory_id=id_of(number), namespace="n", text=text, category=category, observed_at=AT, learned_at=AT,
        importance=importance, loss_delta=4.0, encoder_id="e", priors=weights, surprisals=weights, vectors=vectors,
    )  # fmt: skip


def namespace_of(memories: Iterable[Memory]) -> Namespace:
    space = Namespace()
    for one in memories:
        space.put(one)
    return space


def numbers_of(space: Namespace, rows: Iterable[int]) -> list[int]:
    """The numbers of the memories in these rows."""
    return [int(space.table.id_of(row), 16) for row in rows]
