"""Batches of texts in fixed shapes, and independent batches run in parallel, one thread each.

A text's numbers depend, in their last bits, on the shape that it is computed in and on how many cores compute it. So a
fact always gets the same shape, on one core: its encoding is the same whatever is beside it, on every machine of a kind.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

import torch

A = TypeVar("A")
B = TypeVar("B")

# Padded lengths, in tokens.
LENGTHS = (
    *range(8, 32, 2), *range(32, 64, 8), *range(64, 128, 16), *range(128, 256, 32), 256, 320, 384, 448,
    512, 640, 768, 1024, 1280, 1536, 2048, 2560, 3072, 4096, 6144, 8192,
)  # fmt: skip


class Batch(NamedTuple):
    """Texts to be computed together: their indices, and the shape [rows, length] to pad them to."""

    indices: list[int]
    rows: int
    length: int


def fixed_batches(lengths: Sequence[int], tokens: int = 256) -> list[Batch]:
    """Groups texts of these lengths (in tokens) into batches of fixed shapes, about `tokens` tokens each.

    The shape that a text is computed in depends on its own length only.
    """
    groups: dict[int, list[int]] = {}
    for index, length in enumerate(lengths):
        padded = next((fixed for fixed in LENGTHS if fixed >= length), length)
        groups.setdefault(padded, []).append(index)
    batches = []
    for padded, members in sorted(groups.items()):
        rows = max(1, tokens // padded)
        batches += [Batch(members[i : i + rows], rows, padded) for i in range(0, len(members), rows)]
    return batches


def close_batches(lengths: Sequence[int], tokens: int) -> list[Batch]:
    """Groups texts of similar lengths into batches of at most about `tokens` tokens, each as long as its longest text.

    This is the least work, but a text's numbers depend, in their last bits, on the other texts of its batch.
    """
    batches: list[Batch] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        last = batches[-1] if batches else None
        if last and (last.rows + 1) * lengths[index] <= tokens:
            last.indices.append(index)
            batches[-1] = Batch(last.indices, last.rows + 1, lengths[index])
        else:
            batches.append(Batch([index], 1, lengths[index]))
    return batches


def run_each(
    do: Callable[[A], B], pieces: Sequence[A], parallel: bool, failed: Callable[[], None] = lambda: None
) -> list[B]:
    """do(piece) of each piece, in order.

    parallel: as many pieces at a time as torch has threads, each on one thread. On two cores a small model's matrix products
    run twice as fast side by side, and little faster one after another on both. Otherwise the pieces are computed one after
    another, on all threads or on a GPU.

    failed: called once a piece has raised an error, or Ctrl-C was pressed: until the others have ended, nothing returns.
    """
    if not parallel or not pieces:
        return [do(piece) for piece in pieces]
    cores = torch.get_num_threads()
    try:
        with ThreadPoolExecutor(min(cores, len(pieces)), "core", torch.set_num_threads, (1,)) as pool:
            try:
                return list(pool.map(do, pieces))
            except BaseException:
                failed()
                raise
    finally:
        torch.set_num_threads(cores)  # for threads that start later: this one's number has not changed
