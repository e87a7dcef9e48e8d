"""Encodings of a fact and of a prompt: the encoder's numbers, for the bank and for retrieval."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class FactEncoding:
    """A fact's losses (ingest/loss_delta.py) and the numbers of its words, named as their columns on disk."""

    text: str
    encoder_id: str
    base_loss: float  # nats per token of the answer, under the frozen model
    recall_loss: float  # the same, with the fact's own memory copied from the answer's beginning
    loss_delta: float  # base_loss - recall_loss: by how much storing the fact would lower the loss
    priors: NDArray[np.float32]  # [words] unigram_nll (text/frequencies.py), nats
    surprisals: NDArray[np.float32]  # [words] -log p of the word in the fact, nats
    vectors: NDArray[np.uint8] = field(default_factory=lambda: np.zeros((0, 0), np.uint8))
    """[words, ceil(d / 4)] whitened states, two bits a dimension: ingest/quantize.py."""


@dataclass(frozen=True, slots=True)
class PromptEncoding:
    """The last words of a prompt, without its labels."""

    terms: list[str]
    unigram_nll: NDArray[np.float32]  # [words] nats
    surprisals: NDArray[np.float32]  # [words] -log p of the word in the prompt, nats
    name_scores: list[float]  # [words] 0 to 1, how much each looks like a name: text/names.py
    vectors: NDArray[np.float32]  # [words, d] whitened states, unit vectors
    informative: float  # nats: a word with a lower unigram_nll is wording


class TooLong(ValueError):
    """The text has more tokens than the model's context."""


class Stopped(Exception):
    """Raised when a caller stops the encoding of a batch before its end."""
