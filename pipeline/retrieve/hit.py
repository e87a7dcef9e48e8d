"""Retrieval hit: a memory that was found for a prompt, with its score, and its gate once it is read."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.memory.record import Memory


@dataclass(frozen=True, slots=True)
class Hit:
    """Made by the retriever. Only gate.py sets its gate and `doubted_by`, in a copy."""

    memory: Memory
    score: float  # nats, with the bonuses for importance and category
    words: NDArray[np.float64]  # [evidence.WORDS] how the prompt's words and the fact's agree
    passage: str  # what the model reads of the memory's text
    probability: float = 0.0  # that the fact answers the prompt, by the head; 0 if the model did not read it
    log_p_none: float = (
        0.0  # that the fact does not answer it, by the tuned model alone; 0 if it did not read it
    )
    gate: float = 0.0  # 0: the memory takes no part in the answer; 1: it takes part with all its weight
    doubted_by: str | None = None  # the memory_id of a newer fact that answers the same
