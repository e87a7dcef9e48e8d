"""A whole fit of a small random model: the weights file, and the report on domains left out."""

from pathlib import Path
from random import Random

import pytest
import torch

from pipeline.bench.wild.scenario import Scenario
from pipeline.fit import formula, train
from pipeline.fit.fit import FEWEST, LEAST, fit
from pipeline.fit.formula import fit_formula
from pipeline.ingest.encoder import Encoder
from pipeline.memory_lm import MemoryLM
from pipeline.model.weights import Numbers, Weights
from tests.bench.test_wild import FEW, SCENARIO
from tests.helpers.weights import encoder_of

SCENARIOS = [
    scenario.model_copy(update={"domain": f"{scenario.domain} {n}"})
    for n in range(3)
    for scenario in (SCENARIO, Scenario.model_validate(FEW))
]


@pytest.fixture
def encoder(llama: Path) -> Encoder:
    return encoder_of(llama)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "EPOCHS", 1)
    monkeypatch.setattr(train, "NETWORKS", 1)
    monkeypatch.setattr(formula, "ASKS", 1)


def test_a_fit_gives_weights_that_answer(encoder: Encoder) -> None:
    steps = dict[str, int]()

    def progress(step: str, done: int, total: int) -> None:
        steps[step] = steps.get(step, 0) + done
        assert steps[step] <= total

    fitted = fit(encoder, SCENARIOS, progress)
    assert set(steps) == {"searching", "tuning", "reading", "training", "formula", "pairing"}
    report = fitted.left_out
    assert report.asks > 0 and report.silent
    weights = Weights.from_bytes(fitted.content, "the fit")
    assert weights.prefix_for(encoder.backbone.hash) is not None and weights.numbers.least == LEAST
    assert torch.equal(weights.without_states.direct, encoder.weights.without_states.direct)
    lm = MemoryLM(Encoder(encoder.backbone, calibration=encoder.calibration, weights=weights))
    lm.learn(["The autoclave beeps at 07:40."], min_loss_delta=0.0)
    assert lm.encoder_id != encoder.encoder_id and lm.generate(["The autoclave beeps at"], max_new_tokens=4)


def test_two_fits_are_equal(encoder: Encoder) -> None:
    one, other = (fit(encoder, SCENARIOS[:4], lambda *step: None) for _ in range(2))
    assert one == other


def test_too_few_domains_are_refused(encoder: Encoder) -> None:
    with pytest.raises(ValueError, match=f"needs {FEWEST} domains or more, and these files have 3"):
        fit(encoder, SCENARIOS[:3], lambda *step: None)


def test_the_formula_takes_the_first_of_the_numbers_that_give_most_answers(
    encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gives(encoder: Encoder, case: formula._Case, numbers: Numbers) -> bool:
        return numbers.copy == 0.75 and numbers.contrast >= 1.25

    monkeypatch.setattr(formula, "_gives", gives)
    numbers, given = fit_formula(encoder, SCENARIOS, Random(0), lambda *step: None)
    assert numbers == encoder.weights.numbers._replace(contrast=1.25, copy=0.75, follow=0.0) and given == 1.0


def test_an_answer_is_given_if_each_of_its_tokens_is_the_most_likely(encoder: Encoder) -> None:
    (answer,) = encoder.backbone.tokenize([" 07:40"])
    sure = torch.full((len(answer.ids), len(encoder.backbone.tokenizer)), -30.0)
    sure[range(len(answer.ids)), answer.ids] = 0.0
    numbers = encoder.weights.numbers._replace(copy=0.0, follow=0.0)
    case = formula._Case("The autoclave beeps at", ["The autoclave beeps at 07:40."], answer.ids, sure, sure)
    assert formula._gives(encoder, case, numbers)
    sure[-1, answer.ids[-1]] = -31.0
    assert not formula._gives(encoder, case, numbers)


def test_the_command_fits_and_prints(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import orjson
    from typer.testing import CliRunner

    from tests.bench.test_recall import written
    from workers.cli.app import app

    lines = [orjson.loads(scenario.model_dump_json()) for scenario in SCENARIOS[:4]]
    file, out = written(tmp_path, lines), tmp_path / "out.safetensors"
    arguments = ["model", "fit", str(file), "--model", str(llama), "--out", str(out)]
    runner = CliRunner(env={"COLUMNS": "120", "NO_COLOR": "1", "TERM": "dumb"})
    result = runner.invoke(app, [*arguments, "--json"])
    assert result.exit_code == 0, result.output
    assert orjson.loads(result.stdout)["left_out"]["asks"] > 0
    assert Weights.from_bytes(out.read_bytes(), out).sha256
    table = runner.invoke(app, arguments)
    assert table.exit_code == 0 and "answered whole" in table.stdout and "silent: " in table.stdout
