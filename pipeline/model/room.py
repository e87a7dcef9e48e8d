"""Room: how much a GPU computes together, from the memory that is free on it.

A CPU has other limits, and is not asked. What is decided here holds for the life of a process, so that a fact is always computed in
the same shape; where less memory is free, a smaller shape may change the last bits of its numbers, as another GPU does.
"""

from typing import Any

import torch

SHARE = 0.5
"""The part of the free memory that a batch may take: estimates are rough, and others may use the GPU."""
TOKENS = (256, 8192)
"""Least and most tokens of a batch of facts: more of them do not make a GPU faster."""
ROWS = (16, 128)
"""Least and most requests that are answered together."""
CONTEXT = 4096
"""Tokens that a request is reckoned with, where the model takes more."""


def free_bytes(device: torch.device) -> int | None:
    """The free memory of a GPU; None for another device."""
    return int(torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else None


def tokens_at_once(config: Any, dtype: torch.dtype, free: int) -> int:
    """Tokens of a batch of facts, a power of two: the logits of each, and its states in the layers."""
    logits = config.vocab_size * (4 + dtype.itemsize)
    states = 4 * (config.num_hidden_layers + 8) * config.hidden_size * dtype.itemsize
    room = max(1, int(SHARE * free) // (logits + states))
    return _within(1 << room.bit_length() - 1, TOKENS)


def rows_at_once(config: Any, dtype: torch.dtype, max_positions: int, free: int) -> int:
    """Requests that are answered together: each has keys and values of two streams, and the logits of its next token."""
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    cache = 2 * config.num_hidden_layers * heads * size * dtype.itemsize * min(max_positions, CONTEXT)
    return _within(int(SHARE * free) // (2 * (cache + 4 * config.vocab_size)), ROWS)


def _within(number: int, bounds: tuple[int, int]) -> int:
    return min(max(number, bounds[0]), bounds[1])
