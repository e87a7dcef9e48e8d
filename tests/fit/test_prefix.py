"""A prefix begins as the written examples, and is tuned towards the answers of its rows."""

from pathlib import Path
from random import Random

import pytest
import torch

from pipeline.fit import prefix
from pipeline.fit.rows import TuneRow
from pipeline.model.backbone import Backbone
from pipeline.model.contexts import Contexts, Prompt
from pipeline.model.reading import EXAMPLES

ROWS = [TuneRow((f"The lamp {n} is red.",), f"The lamp {n} is", "red" if n % 2 else None) for n in range(24)]


@pytest.fixture(params=["gpt2", "llama"])
def backbone(request: pytest.FixtureRequest) -> Backbone:
    folder: Path = request.getfixturevalue(request.param)
    return Backbone.load(folder, "cpu", "float32")


def test_an_untuned_prefix_reads_as_the_written_examples(backbone: Backbone) -> None:
    ids = backbone.tokenize(["The lamp is"])[0].ids
    prompts = [Prompt((EXAMPLES, "The lamp is red.\n"), ids), Prompt((EXAMPLES,), ids), Prompt((), ids)]
    written = Contexts(backbone).read(prompts)
    tuned = Contexts(backbone, tuned={(EXAMPLES,): prefix.untuned(backbone)}).read(prompts)
    for one, other in zip(written, tuned, strict=True):
        assert torch.allclose(one.log_p, other.log_p, atol=2e-4)
        assert torch.allclose(one.states, other.states, atol=2e-4)


def test_tuning_lowers_the_loss_and_leaves_the_model_as_it_is(backbone: Backbone) -> None:
    def loss(tensor: torch.Tensor) -> float:
        batches = prefix._batches(backbone, ROWS, Random(0), 1000)
        with torch.no_grad():
            return sum(float(prefix._loss(backbone, tensor, batch)) for batch in batches)

    weights = {name: t.clone() for name, t in backbone.model.state_dict().items()}
    seen = list[int]()
    tuned = prefix.tune(backbone, [ROWS] * 8, Random(0), seen.append)
    assert loss(tuned) < loss(prefix.untuned(backbone)) and sum(seen) == 8 * len(ROWS)
    assert all(torch.equal(t, weights[name]) for name, t in backbone.model.state_dict().items())
    assert torch.equal(tuned, prefix.tune(backbone, [ROWS] * 8, Random(0), seen.append))


def test_no_rows_leave_the_prefix_untuned(backbone: Backbone) -> None:
    assert torch.equal(prefix.tune(backbone, [], Random(0), lambda count: None), prefix.untuned(backbone))
