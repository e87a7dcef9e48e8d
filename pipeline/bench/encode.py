"""How fast facts are encoded, against the bare forward pass of the same texts.

The bare pass computes the logits of the texts, sorted by length and padded to the longest of each batch, in the batch size
that turns out best: what the model costs at least where it is called as it is. In turns, so that what else the machine
does meets both. Knows the encoder; knows nothing of memories or Kafka.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import torch

from pipeline.bench.synthetic.texts import made_up_facts
from pipeline.ingest.encoder import Encoder

BATCHES = (8, 16, 32)  # texts; of which the best is looked for
TRIED = 64  # texts by which it is looked for

Clock = Callable[[], float]
Tell = Callable[[str, int, int], object]


@dataclass(frozen=True)
class EncodeResult:
    """Facts a second, medians. `of_bare` is the median of each round's ratio, by the clock and by the processor's time
    alone: on a machine that does other things too, the second says more."""

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


def measure(encoder: Encoder, wall: Clock, cpu: Clock, tell: Tell, facts: int, rounds: int) -> EncodeResult:
    """Invented facts. `tell` gets (what, more, total) as it goes on."""
    texts, backbone = made_up_facts(facts, 0), encoder.backbone
    ids = sorted((backbone.lead + t.ids for t in backbone.tokenize(texts)), key=len)

    def time(do: Callable[[], object]) -> tuple[float, float]:
        began, spent = wall(), cpu()
        do()
        return wall() - began, cpu() - spent

    tried = ids[:: max(1, len(ids) // TRIED)]
    encoder.encode(texts[:TRIED])  # warms up
    best = min(BATCHES, key=lambda size: time(lambda: _bare(encoder, tried, size))[1])
    tell("encoding", 1, rounds + 1)
    ours, theirs = [], []
    for _ in range(rounds):
        ours.append(time(lambda: encoder.encode(texts)))
        theirs.append(time(lambda: _bare(encoder, ids, best)))
        tell("encoding", 1, rounds + 1)
    rate, bare_rate = (median(facts / seconds for seconds, _ in times) for times in (ours, theirs))
    of_bare, of_bare_cpu = (median(b[c] / a[c] for a, b in zip(ours, theirs, strict=True)) for c in (0, 1))
    return EncodeResult(
        backbone.name, str(backbone.dtype).removeprefix("torch."), str(backbone.device), torch.get_num_threads(),
        facts, sum(map(len, ids)) / facts, rounds, best, rate, bare_rate, of_bare, of_bare_cpu,
    )  # fmt: skip


@torch.inference_mode()
def _bare(encoder: Encoder, ids: Sequence[list[int]], size: int) -> None:
    for begin in range(0, len(ids), size):
        padded, mask = encoder.backbone.pad(ids[begin : begin + size])
        encoder.backbone.model(input_ids=padded, attention_mask=mask, use_cache=False)
