"""Loss delta of a fact: how much its own memory would lower the frozen model's loss on its answer.

    base loss   = mean of -log p                over the answer's tokens, nats
    recall loss = mean of -log(λ + (1 - λ) p)   over the same tokens: a wide-open gate copies them with weight λ
    loss delta  = base loss - recall loss

If the model knows the fact, p is near 1 and the loss delta near 0: storing the fact would change nothing.
"""

import numpy as np
from numpy.typing import NDArray


def losses_of_answer(
    losses: NDArray[np.float32],
    token_words: NDArray[np.int64],
    unigram_nll: NDArray[np.float32],
    informative: float,
    lambda_max: float,
) -> tuple[float, float, float]:
    """The base loss, the recall loss and the loss delta of a fact, nats per token.

    losses: [tokens] -log p; token_words: [tokens] the index of each token's word, -1 for none; unigram_nll: [words] nats;
    informative: nats, the least unigram_nll of an answer's words; lambda_max: a memory's weight with its gate wide open.
    """
    answer = losses[np.isin(token_words, answer_words(unigram_nll, informative))]
    if not len(answer):
        answer = losses
    base = float(answer.mean()) if len(answer) else 0.0
    recall = float(-np.log(lambda_max + (1 - lambda_max) * np.exp(-answer)).mean()) if len(answer) else 0.0
    # Rounded, so that decisions are made by exactly the 32-bit values that are stored.
    base, recall = float(np.float32(base)), float(np.float32(recall))
    return base, recall, float(np.float32(base - recall))


def answer_words(unigram_nll: NDArray[np.float32], informative: float) -> list[int]:
    """Indices of the words of a fact's answer: its last consecutive informative words, where the new thing stands."""
    last = next((i for i in range(len(unigram_nll) - 1, -1, -1) if unigram_nll[i] >= informative), None)
    if last is None:
        return []
    first = last
    while first > 0 and unigram_nll[first - 1] >= informative:
        first -= 1
    # Where all words are informative ("Shakespeare wrote Hamlet"), the first is the subject, and the last the answer.
    return list(range(first, last + 1)) if first > 0 else [last]
