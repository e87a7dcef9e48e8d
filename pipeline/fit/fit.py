"""Fit of a model's weights on scenarios, and what they give on domains that were left out.

1. Prefix: tuned on READING of the domains (augment.py, rows.py, prefix.py).
2. Examples: the model reads every prompt of the other domains after each of its candidates, behind that prefix (examples.py); also
   of a small memory of each domain. They are other domains, because the head must not trust what the prefix knows by heart.
3. Left out: the head is trained without a part of these domains, and asked about them, part by part. From these answers come the
   report. The gate opens where it is likelier that a fact answers than that none does.
4. The head is trained on all of these domains, and the numbers of the fusion's formula are chosen on them (formula.py).
5. Second look: with that head, the asks show which pairs of facts an answer needs (pairs.py).

The network for models without weights of their own is kept as it is.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime
from random import Random

import torch
from torch import Tensor

from pipeline.bench.harness import Progress
from pipeline.bench.scores import share
from pipeline.bench.wild.scenario import Scenario
from pipeline.bench.wild.verdicts import learn
from pipeline.fit import prefix, train
from pipeline.fit.augment import augmented, ordinary_prompts, small
from pipeline.fit.examples import Prompt, examples_of
from pipeline.fit.formula import fit_formula
from pipeline.fit.pairs import PairReport, fit_pairs, untaught
from pipeline.fit.rows import TuneRow, rows_of
from pipeline.fit.train import Examples
from pipeline.ingest.encoder import Encoder
from pipeline.memory_lm import MemoryLM
from pipeline.model.backbone import Backbone
from pipeline.model.weights import Network, Weights, to_bytes
from pipeline.retrieve.retriever import retrieve_all

READING = 0.5
"""Share of the domains on which the prefix is tuned."""
FEWEST = 4
"""Domains: fewer cannot be divided."""
LEAST = 0.5
"""Probability that any fact answers from which the gate opens."""
SEED = 20261129


@dataclass(frozen=True, slots=True)
class LeftOut:
    """What the head gives on domains that it was not trained on."""

    asks: int
    in_candidates: float | None
    """The share with a right fact among the candidates."""
    first: float | None
    """The share whose likeliest fact is right."""
    spoken_right: float | None
    """The share whose gate opens for the right fact."""
    spoken_wrong: float | None
    silent: dict[str, float | None]
    """Share of prompts with the gate shut, by the reason why no fact answers."""


@dataclass(frozen=True, slots=True)
class Fit:
    content: bytes
    """Bytes of the weights file."""
    left_out: LeftOut
    given_whole: float
    """The share of asks that are answered in the words of their right facts."""
    pairs: PairReport


def fit(encoder: Encoder, scenarios: Sequence[Scenario], progress: Progress) -> Fit:
    """Fits the weights of the encoder's model. Raises ValueError for too few domains."""
    if len(scenarios) < FEWEST:
        raise ValueError(f"a fit needs {FEWEST} domains or more, and these files have {len(scenarios)}")
    random, kept, model_hash = Random(SEED), encoder.weights, encoder.backbone.hash
    order = random.sample(range(len(scenarios)), len(scenarios))
    ordinary = ordinary_prompts(encoder.backbone, random)
    more = [augmented(scenarios[i], ordinary, random) for i in order]
    some, others = more[: round(READING * len(more))], more[round(READING * len(more)) :]
    tuned = _prefix(encoder, some, random, progress)
    weights = replace(kept, model_hash=model_hash, prefix=tuned)
    reader = Encoder(encoder.backbone, encoder.settings, encoder.calibration, weights)
    every = [*others, *(small(scenario, random) for scenario in others)]
    examples, prompts = examples_of(reader, every, random, progress)
    inputs = train.fit_inputs(examples, torch.Generator().manual_seed(SEED))
    x, total = inputs.all(examples), train.NETWORKS * train.EPOCHS * (train.PARTS + 1)

    def done(epochs: int) -> None:
        progress("training", epochs, total)

    report = _left_out(examples, prompts, x, done)
    network = train.train(x, examples.present, examples.right, SEED, done)
    tensors = {f"with_states.{field.name}": getattr(network, field.name) for field in fields(Network)}
    tensors |= {f"without_states.{f.name}": getattr(kept.without_states, f.name) for f in fields(Network)}
    tensors |= {"mean": inputs.mean, "scale": inputs.scale}
    tensors |= {"other_mean": kept.other_mean, "other_scale": kept.other_scale}
    tensors |= {"state_mean": inputs.state_mean.half(), "state_basis": inputs.state_basis.half()}
    tensors |= {"prefix": tuned.half()}
    tensors = {name: t.half() if name.endswith(".hidden") else t for name, t in tensors.items()}
    numbers, whole = fit_formula(reader, others, random, progress)
    numbers = numbers._replace(least=LEAST)
    without_pairs = to_bytes(model_hash, numbers, tensors | {"pair": untaught()})
    weights = Weights.from_bytes(without_pairs, "the fit")
    reader = Encoder(encoder.backbone, encoder.settings, encoder.calibration, weights)
    tensors["pair"], pairs = fit_pairs(reader, others, random, progress)
    return Fit(to_bytes(model_hash, numbers, tensors), report, whole, pairs)


def _prefix(encoder: Encoder, scenarios: Sequence[Scenario], random: Random, progress: Progress) -> Tensor:
    """The prefix, tuned on these scenarios; one without tokens for a model whose cache is more than keys and values."""
    if not encoder.contexts.cacheable:
        return torch.zeros(1, 2, 1, 0, 1)
    times, rows, backbone = deque[datetime](), list[TuneRow](), encoder.backbone
    lm = MemoryLM(encoder, clock=times.popleft)
    for number, scenario in enumerate(scenarios):
        namespace = f"tune-{number}"
        learn(lm, times, scenario, namespace)

        def find(prompts: Sequence[str], namespace: str = namespace) -> list[list[str]]:
            encoded = encoder.encode_prompts(prompts)
            hits = retrieve_all(
                lm.bank, [[namespace]] * len(prompts), encoded, encoder.settings.read_candidates
            )
            return [[hit.memory.text for hit in own] for own in hits]

        rows += rows_of(scenario, find, _chat(backbone), random)
        progress("searching", 1, len(scenarios))
    return prefix.tune(backbone, [rows], random, lambda count: progress("tuning", count, len(rows)))


def _chat(backbone: Backbone) -> Callable[[str], str]:
    return lambda text: backbone.chat([{"role": "user", "content": text}])


def _left_out(examples: Examples, prompts: Sequence[Prompt], x: Tensor, done: train.Done) -> LeftOut:
    p = torch.zeros(len(examples), x.shape[1] + 1)
    for part in train.folds(examples.group.tolist()):
        out = torch.isin(examples.group, torch.tensor(part))
        network = train.train(x[~out], examples.present[~out], examples.right[~out], SEED, done)
        p[out] = train.predict(network, x[out], examples.present[out])
    answered = 1 - p[:, -1]
    right = examples.right.gather(1, p[:, :-1].argmax(1, keepdim=True))[:, 0]
    kinds = sorted({prompt.why for prompt in prompts if prompt.why})
    of_kind = {why: torch.tensor([prompt.why == why for prompt in prompts]) for why in kinds}
    asks = torch.tensor([not prompt.why for prompt in prompts])
    spoken = answered >= LEAST
    return LeftOut(
        int(asks.sum()), share(examples.right.any(1)[asks].tolist()), share(right[asks].tolist()),
        share((right & spoken)[asks].tolist()), share((~right & spoken)[asks].tolist()),
        {why: share((~spoken)[rows].tolist()) for why, rows in of_kind.items()},
    )  # fmt: skip
