"""Static cache: keys and values in one tensor that is allocated ahead, with a length for each row.

    [layers, key or value, rows, heads, width, d]

A row's tokens stand from the left without gaps. Rows leave and join by copying, and a wider tensor is made, twice as wide,
when a row needs it: a step allocates nothing.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

WIDTH = 64  # tokens: the least width, and what widths are multiples of


class StaticCache:
    """Keys and values of a batch so far."""

    joinable = True

    def __init__(self, states: Tensor, lengths: list[int]) -> None:
        """states: [layers, 2, rows, heads, width, d]; lengths: the tokens of each row."""
        self.states, self.lengths = states, lengths
        self.steps = 0  # since the tensor was made
        self.graph: Callable[[Tensor, Tensor], Tensor] | None = (
            None  # a step that was captured with this tensor
        )
        self.graph_reads: object = None  # whose memory the graph reads, and which nobody else may keep

    @property
    def rows(self) -> int:
        return len(self.lengths)

    @property
    def width(self) -> int:
        """Tokens that a row has room for."""
        return self.states.shape[4]

    def reserve(self, width: int) -> None:
        """Makes room for so many tokens in each row."""
        if width > self.width:
            self._move(range(self.rows), self.rows, max(width, 2 * self.width))

    def last(self, counts: Sequence[int]) -> list[Tensor]:
        """A copy of each row's last keys and values, [layers, 2, heads, tokens, d]; counts: how many tokens of each."""
        return [
            self.states[:, :, row, :, length - count : length].clone()
            for row, (length, count) in enumerate(zip(self.lengths, counts, strict=True))
        ]

    @torch.inference_mode()
    def select(self, rows: Sequence[int]) -> None:
        """Keeps only these rows, in this order, and only the width that they need."""
        lengths = [self.lengths[row] for row in rows]
        self._move(rows, len(rows), max(lengths) + 1)
        self.lengths = lengths

    @torch.inference_mode()
    def join(self, other: "StaticCache") -> None:
        """Appends the other batch's rows to this one's."""
        before, width = self.rows, max(other.lengths)
        self._move(range(before), before + other.rows, max(width + 1, self.width))
        self.states[:, :, before:, :, :width] = other.states[..., :width, :]
        self.lengths = self.lengths + other.lengths

    def _move(self, rows: Sequence[int], count: int, width: int) -> None:
        """Copies these rows to the beginning of a tensor with `count` rows."""
        layers, two, _, heads, _, d = self.states.shape
        wider = self.states.new_zeros(layers, two, count, heads, rounded(width), d)
        used = max(self.lengths[row] for row in rows)
        index = torch.tensor(list(rows), device=self.states.device)
        wider[:, :, : len(rows), :, :used] = self.states[..., :used, :].index_select(2, index)
        self.states, self.steps, self.graph, self.graph_reads = wider, 0, None, None


def rounded(width: int) -> int:
    """A width that a cache may have."""
    return -(-width // WIDTH) * WIDTH
