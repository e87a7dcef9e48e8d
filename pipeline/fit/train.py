"""Training of the head: a listwise loss over a prompt's candidates and "none of them".

    loss = -log sum of p(candidate) over the right candidates, or -log p(none) where no candidate is right

Seconds on a CPU: the backbone has been read already (examples.py), and only small networks are trained, on its frozen states
projected on their leading directions.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.model.weights import Network, standard

DIRECTIONS = 64  # of each of the states' projections
UNITS = 64
NETWORKS = 4  # in an ensemble
EPOCHS = 24
BATCH = 64
RATE = 2e-3
DECAY = 0.05
DROPOUT, INPUT_DROPOUT = 0.3, 0.1
PARTS = 4  # of the domains, each left out once for a report
SAMPLE = 20_000  # candidates from which the directions are computed
Done = Callable[[int], object]
"""Called with the number of epochs since the last call."""
SHRINK = 0.01  # share of the leading variance added to each, so that whitening amplifies no noise


@dataclass(frozen=True, slots=True)
class Examples:
    """Prompts with their candidates, padded to the same number c."""

    evidence: Tensor  # [n, c, features] float32
    states: Tensor  # [n, c, depths, 2, d] float16
    bare: Tensor  # [n, depths, 2, d] float16
    present: Tensor  # [n, c] bool: false for padding
    right: Tensor  # [n, c] bool: whether the candidate answers
    group: Tensor  # [n] int64: the domain

    def __len__(self) -> int:
        return len(self.group)


@dataclass(frozen=True, slots=True)
class Inputs:
    """What turns a candidate into a network's inputs."""

    mean: Tensor  # [features]
    scale: Tensor  # [features]
    state_mean: Tensor  # [depths, 2, 2, d]
    state_basis: Tensor  # [depths, 2, 2, d, DIRECTIONS]

    def evidence(self, examples: Examples) -> Tensor:
        """[n, c, features]."""
        return standard(examples.evidence, self.mean, self.scale)

    def all(self, examples: Examples) -> Tensor:
        """[n, c, inputs] evidence and projected states."""
        n, c = examples.present.shape
        parts = [self.evidence(examples)]
        for depth in range(self.state_mean.shape[0]):
            for place in range(2):
                own = examples.states[:, :, depth, place].float()
                for kind, state in enumerate((own, own - examples.bare[:, None, depth, place].float())):
                    at = (depth, place, kind)
                    parts.append(((state - self.state_mean[at]) @ self.state_basis[at]).view(n, c, -1))
        return torch.cat(parts, 2)


def fit_inputs(examples: Examples, generator: torch.Generator) -> Inputs:
    """Means, scales and leading directions over the candidates of these examples."""
    rows = examples.evidence[examples.present]
    where = examples.present.nonzero()
    where = where[torch.randperm(len(where), generator=generator)[:SAMPLE]]
    depths, d = examples.bare.shape[1], examples.bare.shape[3]
    mean, basis = torch.zeros(depths, 2, 2, d), torch.zeros(depths, 2, 2, d, min(DIRECTIONS, d))
    for depth in range(depths):
        for place in range(2):
            own = examples.states[where[:, 0], where[:, 1], depth, place].float()
            for kind, state in enumerate((own, own - examples.bare[where[:, 0], depth, place].float())):
                mean[depth, place, kind] = state.mean(0)
                variances, directions = torch.linalg.eigh(torch.cov(state.T))
                leading = directions.flip(1)[:, : basis.shape[-1]]
                scale = (variances.flip(0)[: basis.shape[-1]].clamp(min=0) + SHRINK * variances[-1]).sqrt()
                basis[depth, place, kind] = leading / scale
    return Inputs(rows.mean(0), rows.std(0) + 1e-6, mean, basis)


class _Net(nn.Module):
    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.direct, self.hidden = nn.Linear(inputs, 1, bias=False), nn.Linear(inputs, UNITS)
        self.out, self.none = nn.Linear(UNITS, 1, bias=False), nn.Parameter(torch.zeros(1))
        self.drop, self.drop_inputs = nn.Dropout(DROPOUT), nn.Dropout(INPUT_DROPOUT)

    def forward(self, x: Tensor, present: Tensor) -> Tensor:
        x = self.drop_inputs(x)
        logits = (self.direct(x) + self.out(self.drop(torch.relu(self.hidden(x)))))[..., 0]
        logits = logits.masked_fill(~present, -1e9)
        return torch.cat([logits, self.none.expand(len(x), 1)], 1)


def train(x: Tensor, present: Tensor, right: Tensor, seed: int, done: Done = lambda epochs: None) -> Network:
    """An ensemble, trained on inputs x [n, c, inputs]. Deterministic for a seed and a number of threads."""
    target = torch.cat([right, ~right.any(1, keepdim=True)], 1)
    with torch.random.fork_rng(devices=[]):
        nets = [_train_one(x, present, target, seed + i, done) for i in range(NETWORKS)]
    return Network(
        direct=torch.stack([net.direct.weight[0] for net in nets]),
        hidden=torch.stack([net.hidden.weight for net in nets]),
        hidden_bias=torch.stack([net.hidden.bias for net in nets]),
        out=torch.stack([net.out.weight[0] for net in nets]),
        none=torch.stack([net.none[0] for net in nets]),
    )


def _train_one(x: Tensor, present: Tensor, target: Tensor, seed: int, done: Done) -> _Net:
    torch.manual_seed(seed)
    net = _Net(x.shape[2])
    optimizer = torch.optim.AdamW(net.parameters(), lr=RATE, weight_decay=DECAY)
    steps = EPOCHS * -(-len(x) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    for _ in range(EPOCHS):
        for some in torch.split(torch.randperm(len(x)), BATCH):
            log_p = net(x[some], present[some]).log_softmax(1)
            loss = -log_p.masked_fill(~target[some], -1e9).logsumexp(1).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        done(1)
    return net.eval().requires_grad_(False)


def predict(network: Network, x: Tensor, present: Tensor) -> Tensor:
    """[n, c + 1] the probability of each candidate, 0 for padding, and of none."""
    found = x.new_zeros((len(x), x.shape[1] + 1))
    for row, own in enumerate(present):
        p = network.probabilities(x[row, own])
        found[row, :-1][own] = p[:-1]
        found[row, -1] = p[-1]
    return found


def folds(groups: Sequence[int], count: int = PARTS) -> list[list[int]]:
    """The groups in `count` parts; as many parts as groups for leave-one-out."""
    names = sorted(set(groups))
    return [names[i::count] for i in range(min(count, len(names)))]
