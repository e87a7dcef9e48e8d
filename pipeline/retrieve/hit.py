"""Retrieval hit: a memory that was found for a prompt, with its alignment, score and gate."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.memory.record import Memory
from pipeline.retrieve.alignment import Alignment
from pipeline.text.annotate import AnnotatedText


@dataclass(frozen=True, slots=True)
class Hit:
    """Made by the retriever. Only gate.py changes its gate, in a copy."""

    memory: Memory
    text: AnnotatedText  # of the memory
    idf: NDArray[np.float64]  # [words] nats, among the memories of its namespace
    alignment: Alignment
    score: float  # nats, with the bonuses for importance and category
    gate: float  # 0: the memory takes no part in the answer; 1: it takes part with all its weight
    answerable: bool = False  # whether its answer may be chosen where a sentence breaks off
