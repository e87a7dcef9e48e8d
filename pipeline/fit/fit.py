"""Fit of a model's weights on scenarios, and what they give on domains that were left out.

1. Examples: the frozen model reads every prompt after each of its candidates (examples.py). This is nearly all of the time.
2. Left out: the head is trained without a part of the domains, and asked about these, part by part. From these answers come the
   report and the gate's threshold: the lowest at which every kind of prompt that no fact answers is kept as `SILENT` says.
3. The head is trained on all domains.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from pipeline.bench.harness import Progress
from pipeline.bench.scores import share
from pipeline.bench.wild.scenario import Scenario
from pipeline.fit import train
from pipeline.fit.examples import Prompt, examples_of
from pipeline.fit.train import Examples
from pipeline.ingest.encoder import Encoder
from pipeline.model.weights import Network, Numbers, to_bytes

PARTS = 4
"""Parts of the domains, each left out once."""
SILENT = 0.85
"""Share of the prompts that no fact answers on which the gate stays shut, averaged over their kinds."""
SEED = 20261129


@dataclass(frozen=True, slots=True)
class LeftOut:
    """What the head gives on domains that it was not trained on."""

    asks: int
    in_candidates: float | None
    """The share with a right fact among the candidates."""
    first: float | None
    """The share whose likeliest fact is right."""
    least: float
    """The gate's threshold."""
    spoken_right: float | None
    """The share whose gate opens for the right fact."""
    spoken_wrong: float | None
    silent: dict[str, float | None]
    """By why no fact answers: the share with the gate shut."""


@dataclass(frozen=True, slots=True)
class Fit:
    content: bytes
    """Of the weights file."""
    with_states: LeftOut
    without_states: LeftOut


def fit(encoder: Encoder, scenarios: Sequence[Scenario], numbers: Numbers, progress: Progress) -> Fit:
    """Fits the weights of the encoder's model. numbers: those of the fusion's formula are kept."""
    examples, prompts = examples_of(encoder, scenarios, progress)
    inputs = train.fit_inputs(examples, torch.Generator().manual_seed(SEED))
    every, features = inputs.all(examples), examples.evidence.shape[2]
    total = 2 * train.NETWORKS * train.EPOCHS * (PARTS + 1)
    tensors, reports = dict[str, Tensor](), dict[str, LeftOut]()
    for name, x in (("with_states", every), ("without_states", every[..., :features])):

        def done(epochs: int) -> None:
            progress("training", epochs, total)

        reports[name] = _left_out(examples, prompts, x, done)
        network = train.train(x, examples.present, examples.right, SEED, done)
        tensors |= {f"{name}.{field.name}": getattr(network, field.name) for field in fields(Network)}
    tensors |= {"mean": inputs.mean, "scale": inputs.scale}
    tensors |= {"state_mean": inputs.state_mean.half(), "state_basis": inputs.state_basis.half()}
    tensors = {name: t.half() if name.endswith(".hidden") else t for name, t in tensors.items()}
    own = numbers._replace(
        least=reports["with_states"].least, least_without_states=reports["without_states"].least
    )
    return Fit(to_bytes(encoder.backbone.hash, own, tensors), **reports)


def _left_out(examples: Examples, prompts: Sequence[Prompt], x: Tensor, done: train.Done) -> LeftOut:
    p = torch.zeros(len(examples), x.shape[1] + 1)
    for part in train.folds(examples.group.tolist(), PARTS):
        out = torch.isin(examples.group, torch.tensor(part))
        network = train.train(x[~out], examples.present[~out], examples.right[~out], SEED, done)
        p[out] = train.predict(network, x[out], examples.present[out])
    answered = 1 - p[:, -1]
    right = examples.right.gather(1, p[:, :-1].argmax(1, keepdim=True))[:, 0]
    kinds = sorted({prompt.why for prompt in prompts if prompt.why})
    of_kind = {why: torch.tensor([prompt.why == why for prompt in prompts]) for why in kinds}
    least = _threshold([answered[rows] for rows in of_kind.values()])
    asks = torch.tensor([not prompt.why for prompt in prompts])
    spoken = answered >= least
    return LeftOut(
        int(asks.sum()), share(examples.right.any(1)[asks].tolist()), share(right[asks].tolist()), least,
        share((right & spoken)[asks].tolist()), share((~right & spoken)[asks].tolist()),
        {why: share((~spoken)[rows].tolist()) for why, rows in of_kind.items()},
    )  # fmt: skip


def _threshold(kinds: Sequence[Tensor]) -> float:
    """The lowest of 200 thresholds at which the kinds' prompts are kept silent as often as SILENT says, on average."""
    for step in range(1, 200):
        if kinds and float(torch.stack([(p < step / 200).float().mean() for p in kinds]).mean()) >= SILENT:
            return step / 200
    return 1.0
