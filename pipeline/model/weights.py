"""Learned weights of the memory: of the prefix, of the head, and of the fusion.

`factstream model fit` trains them on a frozen model's states, and writes them as one safetensors file, kept by model hash. The
default model's is shipped. For a model without one the shipped file's second network serves, which needs no states. The
file's SHA-256 is part of the encoder id, so that all workers of one memory have the same.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from math import exp
from pathlib import Path
from typing import NamedTuple, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from pipeline.files import atomic_file
from pipeline.model.backbone import Backbone
from pipeline.model.cache import cache_folder
from pipeline.model.errors import ModelError

SHIPPED = "default.weights.safetensors"


class Numbers(NamedTuple):
    """The fitted numbers of the gate and of the fusion's formula (fusion/fusion.py)."""

    least: float  # probability that any fact answers, from which the gate opens
    least_without_states: float  # the same for the network that needs no states
    beside: float  # share of the best fact's probability from which another one is read, too
    contrast: float
    copy: float  # nats
    follow: float  # nats
    plausible: float  # nats
    copied: float  # nats


@dataclass(frozen=True, slots=True)
class Network:
    """An ensemble of n networks with one hidden layer and a direct path, whose probabilities are averaged."""

    direct: Tensor  # [n, inputs]
    hidden: Tensor  # [n, units, inputs]
    hidden_bias: Tensor  # [n, units]
    out: Tensor  # [n, units]
    none: Tensor  # [n] the logit of "none of them"

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], name: str) -> Self:
        """The network of this name in a file."""
        return cls(*(tensors[f"{name}.{field}"] for field in cls.__dataclass_fields__))

    def probabilities(self, inputs: Tensor) -> Tensor:
        """[candidates + 1], the last is none of them. inputs: [candidates, inputs] float32."""
        units = torch.relu(torch.einsum("nui,ci->ncu", self.hidden, inputs) + self.hidden_bias[:, None])
        logits = torch.einsum("ni,ci->nc", self.direct, inputs) + torch.einsum("nu,ncu->nc", self.out, units)
        return torch.cat([logits, self.none[:, None]], dim=1).softmax(1).mean(0)


@dataclass(frozen=True, slots=True)
class Weights:
    """What one file holds."""

    model_hash: str  # of the model whose states it knows
    mean: Tensor  # [features] of the evidence, as this model reads
    scale: Tensor  # [features]
    other_mean: Tensor  # [features] as a model reads that has no prefix
    other_scale: Tensor  # [features]
    state_mean: Tensor  # [depths, 2 (last token, mean), 2 (state, difference), d]
    state_basis: Tensor  # [depths, 2, 2, d, directions]: (state - mean) @ basis
    prefix: Tensor  # [layers, 2 (key, value), heads, tokens, d] read before every fact
    pair: Tensor  # [features of two facts + 1] a logistic regression, its constant last (retrieve/second_look.py)
    with_states: Network
    without_states: Network
    numbers: Numbers
    sha256: str

    @classmethod
    def from_bytes(cls, content: bytes, where: object) -> Self:
        """The weights in a safetensors file; `where` is its name in errors. Raises ModelError for another content."""
        try:
            tensors = load(content)
            floats = {name: t.float() for name, t in tensors.items() if t.is_floating_point()}
            found = cls(
                model_hash=bytes(tensors["model"].tolist()).hex(),
                mean=floats["mean"], scale=floats["scale"],
                other_mean=floats["other_mean"], other_scale=floats["other_scale"],
                state_mean=floats["state_mean"], state_basis=floats["state_basis"], prefix=floats["prefix"],
                pair=floats["pair"],
                with_states=Network.of(floats, "with_states"), without_states=Network.of(floats, "without_states"),
                numbers=Numbers(*floats["numbers"].tolist()), sha256=hashlib.sha256(content).hexdigest(),
            )  # fmt: skip
        except (SafetensorError, LookupError, ValueError, TypeError) as error:
            raise ModelError(
                f"{where} has no weights ({error}); `factstream model fit` makes them"
            ) from error
        if not all(bool(t.isfinite().all()) for t in floats.values()):
            raise ModelError(f"{where} has numbers that are not finite; `factstream model fit` makes others")
        return found

    def probabilities(self, evidence: Tensor, states: Tensor, bare: Tensor, model_hash: str) -> Tensor:
        """[candidates + 1] that each candidate answers the prompt; the last, that none does.

        evidence: [candidates, features]; states: [candidates, depths, 2, d]; bare: [depths, 2, d], of the prompt alone;
        model_hash: of the model whose states these are.
        """
        if model_hash != self.model_hash:
            return self.without_states.probabilities(standard(evidence, self.other_mean, self.other_scale))
        z = standard(evidence, self.mean, self.scale)
        both = torch.stack([states, states - bare], dim=3) - self.state_mean
        projected = torch.einsum("cltkd,ltkdp->cltkp", both, self.state_basis).flatten(1)
        return self.with_states.probabilities(torch.cat([z, projected], dim=1))

    def needed(self, evidence: Sequence[float]) -> float:
        """The probability that an answer needs a second fact. evidence: [second_look.PAIR]."""
        *weights, bias = self.pair.tolist()
        return 1 / (1 + exp(-bias - sum(w * x for w, x in zip(weights, evidence, strict=True))))

    def prefix_for(self, model_hash: str) -> Tensor | None:
        """The prefix, if it is this model's; None also for a model without one."""
        return self.prefix if model_hash == self.model_hash and self.prefix.shape[3] else None

    def least(self, model_hash: str) -> float:
        """The probability that any fact answers from which the gate opens."""
        known = model_hash == self.model_hash
        return self.numbers.least if known else self.numbers.least_without_states


def none_token(backbone: Backbone, weights: Weights) -> int | None:
    """The end-of-text token, which the tuned model says where facts do not answer; None for a model without a prefix."""
    return None if weights.prefix_for(backbone.hash) is None else backbone.tokenizer.eos_token_id


def standard(evidence: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    """[..., features] as a head takes them."""
    return ((evidence - mean) / scale).clamp(-5, 5)


def to_bytes(model_hash: str, numbers: Numbers, tensors: Mapping[str, Tensor]) -> bytes:
    """The file's content. tensors: by the names that `Weights.from_bytes` reads."""
    return save(
        {
            **{name: t.contiguous() for name, t in tensors.items()},
            "numbers": torch.tensor(numbers),
            "model": torch.tensor(list(bytes.fromhex(model_hash)), dtype=torch.uint8),
        }
    )


def weights_of(backbone: Backbone) -> Weights:
    """The model's weights: the ones in the cache, else the shipped ones."""
    path = weights_path(backbone)
    if path.is_file():
        return Weights.from_bytes(path.read_bytes(), path)
    shipped = resources.files("pipeline.model") / SHIPPED
    return Weights.from_bytes(shipped.read_bytes(), shipped)


def weights_path(backbone: Backbone) -> Path:
    """The file in the cache."""
    return cache_folder().resolve() / "weights" / f"{backbone.hash[:32]}.safetensors"


def keep(content: bytes, path: Path) -> Path:
    """Writes the file, and returns its path."""
    with atomic_file(path, durable=False) as out:
        out.write(content)
    return path
