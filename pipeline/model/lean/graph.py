"""Graph: a step on a GPU as one launch.

The GPU computes a small model's layer faster than Python can ask for it. A CUDA graph replays the same kernels on the same memory, so a step's inputs are copied into those that it was captured with.
"""

from collections.abc import Callable

import torch
from torch import Tensor

Step = Callable[[Tensor, Tensor], Tensor]
"""One pass: token ids and positions, [rows, 1] each, become logits. It reads and writes one cache, which must not move."""


class Graph:
    """A captured step."""

    def __init__(self, step: Step, ids: Tensor, positions: Tensor) -> None:
        """Makes the step twice, with the same result: once as a rehearsal, which allocates, and once to capture it."""
        self._ids, self._positions = ids.clone(), positions.clone()
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            step(self._ids, self._positions)
        torch.cuda.current_stream().wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._logits = step(self._ids, self._positions)

    def __call__(self, ids: Tensor, positions: Tensor) -> Tensor:
        self._ids.copy_(ids)
        self._positions.copy_(positions)
        self._graph.replay()
        return self._logits.clone()
