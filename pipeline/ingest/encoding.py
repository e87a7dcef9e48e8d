"""Encodings of a fact and of a prompt: the numbers that bank and retrieval take from the encoder."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class FactEncoding:
    """A fact's losses (ingest/loss_delta.py) and its words' numbers."""

    text: str
    encoder_id: str
    base_loss: float  # nats per token of the answer, under the frozen model
    recall_loss: float  # the same, with the fact's own memory copied from the answer's beginning
    loss_delta: float  # base_loss - recall_loss: what storing the fact would buy
    priors: NDArray[
        np.float32
    ]  # [words] unigram nll, nats, by the name of its column on disk: text/frequencies.py
    surprisals: NDArray[np.float32]  # [words] -log p of the word in the fact, nats
    vectors: NDArray[np.uint8] = field(
        default_factory=lambda: np.zeros((0, 0), np.uint8)
    )  # [words, ceil(d / 4)] whitened states, two bits a dimension: ingest/quantize.py


@dataclass(frozen=True, slots=True)
class PromptEncoding:
    """The last words of a prompt, without its labels."""

    terms: list[str]
    unigram_nll: NDArray[np.float32]  # [words] nats
    surprisals: NDArray[np.float32]  # [words] in the prompt, nats
    name_scores: list[float]  # [words] 0 to 1, how much each looks like a name: text/names.py
    vectors: NDArray[np.float32]  # [words, d] whitened states, unit vectors
    informative: float  # nats: what a word must say at least, to be more than wording


class TooLong(ValueError):
    """The text has more tokens than the model's context."""


class Stopped(Exception):
    """Raised when a caller stops the encoding of a batch before its end."""
