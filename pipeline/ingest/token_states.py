"""Token losses and whitened states of many texts, computed by the frozen model in batches."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.ingest.encoding import Stopped
from pipeline.model.backbone import Backbone
from pipeline.model.batching import Batch, close_batches, fixed_batches, run_each
from pipeline.model.calibration import Calibration

# Tokens of a batch, padding included; tuned for speed. On a CPU larger batches leave the last one emptier, on a GPU smaller
# ones leave it idle.
CPU_BATCH_TOKENS = 256
GPU_BATCH_TOKENS = 8192

TokenStates = tuple[NDArray[np.float32], NDArray[np.float32]]
"""One text's -log p of each token after the lead, nats, [tokens], and these tokens' whitened states, [tokens, d]."""


def token_states(
    backbone: Backbone,
    calibration: Calibration,
    rows: Sequence[list[int]],
    fixed: bool,
    stop: Callable[[], bool] = lambda: False,
) -> list[TokenStates]:
    """The losses and states of each row (the lead, then the text's token ids), in order. Raises Stopped.

    fixed: a row's numbers do not depend, not even in their last bits, on the other rows, nor on how many cores a CPU has.
    Otherwise all cores compute one batch at a time, with little padding: the least time for a few rows.
    """
    lead, on_cpu = len(backbone.lead), backbone.device.type == "cpu"
    batch_tokens, parallel = CPU_BATCH_TOKENS if on_cpu else GPU_BATCH_TOKENS, fixed and on_cpu
    batches = (fixed_batches if fixed else close_batches)([len(row) for row in rows], batch_tokens)
    order = [i for batch in batches for i in batch.indices]
    read = partial(_read, backbone, calibration, rows, stop)
    parts = [row for batch in run_each(read, batches, parallel) for row in batch]
    if not parts:
        return []
    # The head is the widest part of a small model: it gets the rows of all batches in one piece, without their padding.
    head_inputs = torch.cat([head_input for head_input, _ in parts])
    targets = [token for i in order for token in rows[i][lead:]]
    pieces = [slice(at, at + batch_tokens) for at in range(0, len(targets), batch_tokens)]
    least = batch_tokens if fixed else 1
    losses = run_each(
        lambda piece: backbone.hidden.losses(head_inputs[piece], targets[piece], least), pieces, parallel
    )
    all_losses = torch.cat(losses).cpu().numpy() if losses else np.zeros(0, np.float32)
    ends = np.cumsum([len(rows[i]) - lead for i in order])
    results = {
        i: (row_losses, states)
        for i, row_losses, (_, states) in zip(order, np.split(all_losses, ends[:-1]), parts, strict=True)
    }
    return [results[i] for i in range(len(rows))]


@torch.inference_mode()
def _read(
    backbone: Backbone,
    calibration: Calibration,
    rows: Sequence[list[int]],
    stop: Callable[[], bool],
    batch: Batch,
) -> list[tuple[Tensor, NDArray[np.float32]]]:
    """The head's input [tokens, d] and the whitened states [tokens, d] of each row of the batch."""
    if stop():
        raise Stopped
    lead = len(backbone.lead)
    length = min(batch.length, backbone.max_positions)
    ids, _ = backbone.pad([rows[i] for i in batch.indices], batch.rows, length)
    head_input, states = backbone.hidden.read(ids, calibration.layer)
    white = calibration.whiten(states.flatten(0, 1)).view(states.shape).cpu().numpy()
    return [
        (head_input[r, lead - 1 : len(rows[i]) - 1], white[r, lead : len(rows[i])])
        for r, i in enumerate(batch.indices)
    ]
