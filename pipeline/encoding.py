"""An encoded fact, as numbers: what passes from the encoder to the bank. Knows no model, so that a bank needs none."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Encoding:
    text: str
    encoder_id: str
    base_loss: float  # nats per token of the answer, under the frozen model
    recall_loss: float  # the same, with the fact's own memory read from the answer's beginning
    loss_delta: float  # base_loss - recall_loss: what storing the fact would buy
    priors: NDArray[np.float32]  # [words] information before any memory, nats
    surprisals: NDArray[np.float32]  # [words] in the fact, nats
    vectors: NDArray[np.int8] = field(
        default_factory=lambda: np.zeros((0, 0), np.int8)
    )  # [words, dimensions]
