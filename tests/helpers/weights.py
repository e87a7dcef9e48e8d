"""Weights of the memory, made by hand: gates open, or stay shut, by a rule that a test knows.

A small random model understands nothing that it reads, so only the words decide: the head looks at no state.
"""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pipeline.ingest.encoder import Encoder
from pipeline.model.backbone import Backbone
from pipeline.model.calibration import calibration_of
from pipeline.model.contexts import DEPTHS
from pipeline.model.weights import Numbers, Weights, keep, to_bytes, weights_path
from pipeline.retrieve.evidence import FEATURES
from pipeline.retrieve.second_look import PAIR

DIRECTIONS = 2
NUMBERS = Numbers(
    least=0.5, least_without_states=0.5, beside=0.5, contrast=1.0, copy=40.0, follow=40.0, plausible=3.0, copied=60.0
)  # fmt: skip
"""A copied word wins over anything that a random model says."""
BY_WORDS = {"matching_share_undated": 40.0, "rank": -2.0}
"""The head's weights of evidence: the words that match tell, and of equal facts the best by score."""
OPEN, SHUT = -60.0, 200.0
"""The logit of "no fact answers" with which the gates of all prompts open, or stay shut."""


def tensors(
    d: int, none: float = 20.0, evidence: Mapping[str, float] = BY_WORDS, none_without_states: float | None = None
) -> dict[str, Tensor]:  # fmt: skip
    """A file's tensors for a model with states of this width. A gate opens where the evidence outweighs `none`."""
    direct = torch.tensor([evidence.get(name, 0.0) for name in FEATURES])
    projected = torch.zeros(len(DEPTHS) * 2 * 2 * DIRECTIONS)
    found = {
        "mean": torch.zeros(len(FEATURES)), "scale": torch.ones(len(FEATURES)),
        "other_mean": torch.zeros(len(FEATURES)), "other_scale": torch.ones(len(FEATURES)), "prefix": torch.zeros(1, 2, 1, 0, 8),
        "pair": torch.zeros(len(PAIR) + 1),
        "state_mean": torch.zeros(len(DEPTHS), 2, 2, d), "state_basis": torch.zeros(len(DEPTHS), 2, 2, d, DIRECTIONS),
    }  # fmt: skip
    other = none if none_without_states is None else none_without_states
    for name, own, logit in (
        ("with_states", torch.cat([direct, projected]), none),
        ("without_states", direct, other),
    ):
        found |= {
            f"{name}.direct": own[None], f"{name}.hidden": torch.zeros(1, 3, len(own)),
            f"{name}.hidden_bias": torch.zeros(1, 3), f"{name}.out": torch.zeros(1, 3), f"{name}.none": torch.tensor([logit]),
        }  # fmt: skip
    return found


def weights_for(backbone: Backbone, none: float = 20.0, numbers: Numbers = NUMBERS) -> Weights:
    """Weights that know this model."""
    width = backbone.model.config.get_text_config().hidden_size
    return Weights.from_bytes(to_bytes(backbone.hash, numbers, tensors(width, none)), "made by hand")


def encoder_of(
    folder: Path | str, none: float = 20.0, numbers: Numbers = NUMBERS, dtype: str = "auto"
) -> Encoder:
    """The encoder of a small model, with weights made by hand; by default its gates open for facts with the prompt's words."""
    backbone = Backbone.load(folder, "cpu", dtype)
    return Encoder(backbone, weights=weights_for(backbone, none, numbers))


def install(folder: Path, cache: Path, numbers: Numbers = NUMBERS) -> None:
    """Makes a cache folder in which a small model has its calibration and weights made by hand, for other processes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FACTSTREAM_CACHE", str(cache))
        backbone = Backbone.load(folder, "cpu")
        calibration_of(backbone)
        width = backbone.model.config.get_text_config().hidden_size
        keep(to_bytes(backbone.hash, numbers, tensors(width)), weights_path(backbone))
