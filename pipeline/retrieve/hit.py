"""A retrieval hit: a memory that was found for a prompt, and how it lies over the prompt."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.memory.record import Memory
from pipeline.retrieve.alignment import Alignment
from pipeline.text.annotate import AnnotatedText


@dataclass(frozen=True, slots=True)
class Hit:
    """Made by the retriever; only gate.py makes one with another gate out of it."""

    memory: Memory
    text: AnnotatedText  # the memory's
    idf: NDArray[np.float64]  # [words] nats, among the memories of its namespace
    alignment: Alignment
    score: float  # nats, with the bonuses for importance and category
    gate: float  # 0: the memory takes no part in the answer; 1: it takes part with all its weight
    answerable: bool = False  # whether the model may choose its answer where a sentence breaks off
