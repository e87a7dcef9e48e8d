"""A processor's cores side by side, each with a piece of work of its own.

Of a small model's matrices two cores make one product little faster than one core does, but two products twice as fast.
And what one core computes does not depend on how many there are: a text's numbers are the same on every machine of a
kind. Knows torch; knows nothing of models.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

A = TypeVar("A")
B = TypeVar("B")


def each(do: Callable[[A], B], pieces: Sequence[A], apart: bool) -> list[B]:
    """do(piece) of each, in order. apart: as many at a time as torch has threads, each by one of them; else one after
    another, each by all of them, or by a card."""
    if not apart or not pieces:
        return [do(piece) for piece in pieces]
    cores = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(min(cores, len(pieces)), "core", torch.set_num_threads, (1,)) as pool:
            return list(pool.map(do, pieces))
    finally:
        torch.set_num_threads(cores)  # of threads that are still to come; this one's had not changed
