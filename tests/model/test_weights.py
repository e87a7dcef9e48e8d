"""The file of learned weights: what it must have, and which of its networks a model gets."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from pipeline.model.backbone import Backbone
from pipeline.model.contexts import DEPTHS
from pipeline.model.errors import ModelError
from pipeline.model.weights import SHIPPED, Numbers, Weights, keep, to_bytes, weights_of, weights_path
from pipeline.retrieve.evidence import FEATURES
from tests.helpers.weights import NUMBERS, OPEN, SHUT, tensors

D = 8
KNOWN, OTHER = "ab" * 32, "cd" * 32


def content(numbers: Numbers = NUMBERS, **changed: torch.Tensor | None) -> bytes:
    """A good file, with some tensors changed, or left out."""
    named = {name.replace("__", "."): t for name, t in changed.items()}
    return to_bytes(KNOWN, numbers, {n: t for n, t in (tensors(D) | named).items() if t is not None})


def test_a_file_is_read_as_it_was_written() -> None:
    found = Weights.from_bytes(content(), "here")
    assert found.model_hash == KNOWN and found.numbers == pytest.approx(NUMBERS) and len(found.sha256) == 64
    assert found.with_states.direct.shape[1] == len(FEATURES) + found.state_basis[..., 0, :].numel()
    assert found.sha256 == Weights.from_bytes(content(), "there").sha256
    assert found.sha256 != Weights.from_bytes(content(NUMBERS._replace(copy=1.0)), "here").sha256


GOOD = content()


@pytest.mark.parametrize(
    "bad",
    [
        b"", b"\x00" * 40, GOOD[:-1], GOOD[: len(GOOD) // 2], b'{"numbers": []}', save({"a": torch.zeros(1)}),
        content(state_basis=None), content(with_states__hidden=None), content(without_states__none=None),
        content(mean=torch.zeros(len(FEATURES), dtype=torch.int64)),
        save(tensors(D) | {"numbers": torch.zeros(3), "model": torch.zeros(32, dtype=torch.uint8)}),
        save(tensors(D) | {"numbers": torch.tensor(NUMBERS), "model": torch.zeros(32)}),
    ],
)  # fmt: skip
def test_another_file_is_refused_by_name(bad: bytes) -> None:
    with pytest.raises(ModelError, match=r"^here has no weights .*model fit"):
        Weights.from_bytes(bad, "here")


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused(number: float) -> None:
    scale = torch.ones(len(FEATURES))
    scale[-1] = number
    for bad in (content(scale=scale), content(NUMBERS._replace(least=number))):
        with pytest.raises(ModelError, match="here has numbers that are not finite"):
            Weights.from_bytes(bad, "here")


def test_another_model_gets_the_network_without_states() -> None:
    numbers = NUMBERS._replace(least=0.25, least_without_states=0.75)
    made = to_bytes(KNOWN, numbers, tensors(D, none=SHUT, none_without_states=OPEN))
    weights = Weights.from_bytes(made, "here")
    evidence, width = torch.zeros(3, len(FEATURES)), D + 5  # whose states have another width
    other = weights.probabilities(
        evidence, torch.zeros(3, 4, 2, width), torch.zeros(4, 2, width), model_hash=OTHER
    )
    known = weights.probabilities(evidence, torch.zeros(3, 4, 2, D), torch.zeros(4, 2, D), model_hash=KNOWN)
    assert other.shape == known.shape == (4,) and other.sum() == pytest.approx(1.0)
    assert other[-1] < 0.01 and known[-1] > 0.99
    assert (weights.least(OTHER), weights.least(KNOWN)) == (0.75, 0.25)


def test_a_state_counts_by_itself_and_by_what_the_fact_changed() -> None:
    """One direction tells the last token's state, another one the mean state's difference from the bare prompt's."""
    directions = torch.zeros(len(DEPTHS), 2, 2, D, 2)
    directions[0, 0, 0, 1, 0] = directions[3, 1, 1, 2, 1] = 1.0
    direct = tensors(D)["with_states.direct"].zero_()
    projected = torch.zeros(len(DEPTHS), 2, 2, 2)
    projected[0, 0, 0, 0], projected[3, 1, 1, 1] = 3.0, 5.0
    direct[0, len(FEATURES) :] = projected.flatten()
    made = content(state_basis=directions, with_states__direct=direct, with_states__none=torch.zeros(1))
    states, bare = torch.zeros(3, len(DEPTHS), 2, D), torch.zeros(len(DEPTHS), 2, D)
    states[1, 0, 0, 1] = 1.0
    states[2, 3, 1, 2], bare[3, 1, 2] = 2.0, 1.0
    found = Weights.from_bytes(made, "here").probabilities(torch.zeros(3, len(FEATURES)), states, bare, KNOWN)
    expected = torch.tensor([-5.0, 3.0 - 5.0, 5.0, 0.0])  # the first two lack what the bare prompt has
    assert torch.allclose(found, expected.softmax(0))


def test_evidence_far_from_what_was_seen_is_cut_off() -> None:
    weights = Weights.from_bytes(content(), "here")
    states, bare = torch.zeros(1, 4, 2, D), torch.zeros(4, 2, D)
    far, farther = (
        weights.probabilities(torch.full((1, len(FEATURES)), number), states, bare, KNOWN)
        for number in (50.0, 1e30)
    )
    assert torch.equal(far, farther) and bool(far.isfinite().all())


def test_a_models_own_file_serves_before_the_shipped_one(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = Backbone.load(llama, "cpu")
    monkeypatch.setenv("FACTSTREAM_CACHE", str(tmp_path))
    shipped = weights_of(backbone)
    assert shipped.model_hash != backbone.hash and len(shipped.mean) == len(FEATURES)
    path = keep(to_bytes(backbone.hash, NUMBERS, tensors(64)), weights_path(backbone))
    assert path.is_relative_to(tmp_path) and weights_of(backbone).model_hash == backbone.hash
    path.write_bytes(b"cut off")
    with pytest.raises(ModelError, match=str(path)):
        weights_of(backbone)


def test_the_shipped_file_knows_the_default_model() -> None:
    backbone = Backbone.load()
    assert SHIPPED.endswith(".safetensors") and weights_of(backbone).model_hash == backbone.hash
