"""Speed of encoding facts, compared with the bare model's forward pass over the same texts.

The bare pass computes the logits of the texts, sorted by length and padded within each batch, at the fastest of
several batch sizes: the least that unchanged calls of the model cost.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pipeline.bench.harness import Progress, in_turns, median_rate, median_speedup, timed
from pipeline.bench.synthetic.texts import made_up_facts
from pipeline.ingest.encoder import Encoder

BATCH_SIZES = (8, 16, 32)
"""Texts per batch of the bare pass; the fastest size is used."""
TRIAL_TEXTS = 64
"""Texts on which the batch sizes are tried."""


@dataclass(frozen=True)
class EncodeResult:
    """Medians: facts per second, and the rounds' ratios, by wall time and by processor time (`_cpu`)."""

    model: str
    dtype: str
    device: str
    threads: int
    facts: int
    tokens_a_fact: float
    rounds: int
    bare_batch: int
    encode: float
    bare: float
    of_bare: float
    of_bare_cpu: float


def measure(encoder: Encoder, facts: int, rounds: int, progress: Progress) -> EncodeResult:
    """Encodes `facts` invented facts, and runs the bare model over them, in turns."""
    texts, backbone = made_up_facts(facts, 0), encoder.backbone
    ids = sorted((backbone.lead + t.ids for t in backbone.tokenize(texts)), key=len)
    trial = ids[:: max(1, len(ids) // TRIAL_TEXTS)]
    encoder.encode(texts[:TRIAL_TEXTS])  # warms up
    size = min(BATCH_SIZES, key=lambda size: timed(lambda: bare_pass(encoder, trial, size)).cpu)
    progress("encoding", 1, rounds + 1)
    ours, bare = in_turns(
        rounds,
        lambda _: encoder.encode(texts),
        lambda _: bare_pass(encoder, ids, size),
        after=lambda: progress("encoding", 1, rounds + 1),
    )
    speedup = median_speedup(ours, bare)
    return EncodeResult(
        backbone.name, str(backbone.dtype).removeprefix("torch."), str(backbone.device), torch.get_num_threads(),
        facts, sum(map(len, ids)) / facts, rounds, size, median_rate(facts, ours), median_rate(facts, bare),
        speedup.wall, speedup.cpu,
    )  # fmt: skip


@torch.inference_mode()
def bare_pass(encoder: Encoder, ids: Sequence[list[int]], size: int) -> None:
    """The model's logits of these token sequences, `size` at a time."""
    for begin in range(0, len(ids), size):
        padded, mask = encoder.backbone.pad(ids[begin : begin + size])
        encoder.backbone.model(input_ids=padded, attention_mask=mask, use_cache=False)
