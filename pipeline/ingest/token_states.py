"""Token losses and whitened states of many texts, computed by the frozen model in batches."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.ingest.encoding import Stopped
from pipeline.ingest.packing import TOKENS, Pack, Packing, packs
from pipeline.model.backbone import Backbone
from pipeline.model.batching import Batch, close_batches, fixed_batches, run_each
from pipeline.model.calibration import Calibration
from pipeline.model.lean.decoder import Decoder

# Tokens of a batch, padding included; tuned for speed. On a CPU larger batches leave the last one emptier, on a GPU smaller
# ones leave it idle: there `Backbone.batch_tokens` counts.
CPU_BATCH_TOKENS = 256
OTHER_BATCH_TOKENS = 8192

TokenStates = tuple[NDArray[np.float32], NDArray[np.float32]]
"""One text's -log p of each token after the lead, nats, [tokens], and these tokens' whitened states, [tokens, d]."""


def token_states(
    backbone: Backbone,
    calibration: Calibration,
    rows: Sequence[list[int]],
    fixed: bool,
    stop: Callable[[], bool] = lambda: False,
    packing: Packing | None = None,
) -> list[TokenStates]:
    """The losses and states of each row (the lead, then the text's token ids), in order. Raises Stopped.

    packing: computes fixed rows that are no longer than its own, without padding.

    fixed: a row's numbers do not depend, not even in their last bits, on the other rows, nor on how many cores a CPU has.
    Otherwise all cores compute one batch at a time, by the lean decoder where the model has it: the least time for a few rows.
    """
    lead, on_cpu = len(backbone.lead), backbone.device.type == "cpu"
    batch_tokens = CPU_BATCH_TOKENS if on_cpu else backbone.batch_tokens or OTHER_BATCH_TOKENS
    parallel = fixed and on_cpu
    batches = _batches([len(row) for row in rows], batch_tokens, fixed, packing is not None)
    order = [i for batch in batches for i in batch.indices]
    read = partial(_read, backbone, calibration, packing, None if fixed else backbone.decoder, rows, stop)
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


def _batches(lengths: Sequence[int], tokens: int, fixed: bool, packed: bool) -> list[Batch | Pack]:
    if not fixed:
        return [*close_batches(lengths, tokens)]
    short = [i for i, length in enumerate(lengths) if packed and length <= TOKENS]
    long = sorted(set(range(len(lengths))) - set(short))
    return [
        *(Pack([short[i] for i in pack.indices]) for pack in packs([lengths[i] for i in short])),
        *(
            Batch([long[i] for i in b.indices], b.rows, b.length)
            for b in fixed_batches([lengths[i] for i in long], tokens)
        ),
    ]


@torch.inference_mode()
def _read(
    backbone: Backbone,
    calibration: Calibration,
    packing: Packing | None,
    decoder: Decoder | None,
    rows: Sequence[list[int]],
    stop: Callable[[], bool],
    batch: Batch | Pack,
) -> list[tuple[Tensor, NDArray[np.float32]]]:
    """The head's input [tokens, d] and the whitened states [tokens, d] of each row of the batch."""
    if stop():
        raise Stopped
    own = [rows[i] for i in batch.indices]
    if packing and isinstance(batch, Pack):
        head_input, states = packing.read(own, calibration.layer)
        starts = np.cumsum([0, *map(len, own)])
    elif decoder:
        (states, head_input), _ = decoder.read([()] * len(own), own, [calibration.layer, backbone.n_layers])
        states, starts = states.float(), np.cumsum([0, *map(len, own)])
    else:
        assert isinstance(batch, Batch)
        length = min(batch.length, backbone.max_positions)
        ids, _ = backbone.pad(own, batch.rows, length)
        head_input, states = (part.flatten(0, 1) for part in backbone.hidden.read(ids, calibration.layer))
        starts = np.arange(len(own) + 1) * length
    white = calibration.whiten(states).cpu().numpy()
    lead = len(backbone.lead)
    return [
        (head_input[start + lead - 1 : start + len(row) - 1], white[start + lead : start + len(row)])
        for start, row in zip(starts.tolist(), own, strict=False)
    ]
