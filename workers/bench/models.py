"""Several models side by side: what each recalls, says and costs.

Each model is measured in a process of its own, so that resident memory is that of one model alone. The measurements are
those of `bench recall`, `bench wild` and `bench encode`, with fewer prompts.
"""

import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import orjson
import torch
from rich.table import Table

from pipeline.bench import encode
from pipeline.bench.comparison import Comparison, Limits, learn, wins
from pipeline.bench.files import FactRow
from pipeline.bench.harness import Progress, clock, resident_bytes
from pipeline.bench.recall import MEASURED, SEED, cases_of
from pipeline.bench.scores import share
from pipeline.bench.wild import measure as wild
from pipeline.bench.wild.answers import Shares
from pipeline.bench.wild.measure import Kept
from pipeline.bench.wild.scenario import Scenario
from pipeline.bench.wild.speed import Speed
from pipeline.ingest.encoder import Encoder
from pipeline.memory_lm import MemoryLM
from pipeline.model.backbone import Backbone
from pipeline.model.calibration import calibration_of
from pipeline.model.errors import ModelError
from workers.bench.report import console

RECALLED = 50
"""Facts that are learned and asked for."""
DOMAINS = 6
"""Scenarios of which asks are answered."""
ENCODED, ROUNDS = 64, 3
"""Facts that are encoded, and how often."""


@dataclass(frozen=True, slots=True)
class Recalled:
    """The share of facts whose target is likelier than the true one."""

    asked: int
    bare: float | None
    memory: float | None


@dataclass(frozen=True, slots=True)
class ModelResult:
    model: str
    kind: str  # transformers' name of the architecture
    parameters: int
    dtype: str
    device: str
    threads: int
    fitted: bool  # whether prefix and head were fitted on this model
    load_s: float
    calibrate_s: float  # next to nothing where the calibration was kept
    resident_bytes: int  # of the process, once the model is loaded
    recall: dict[str, Recalled]  # empty without a file of facts
    said: Shares
    silent: Kept
    speed: Speed
    encode: float  # facts per second
    of_bare: float  # relative to the bare model's forward pass
    seconds: float


def measure(
    model: str,
    device: str,
    scenarios: Sequence[Scenario],
    rows: Sequence[FactRow],
    limit: int,
    progress: Progress,
) -> ModelResult:
    """Loads the model, and measures it. limit: asks of a scenario. Raises ModelError."""
    begun = clock()
    backbone = Backbone.load(model, device)
    loaded = clock()
    calibration = calibration_of(backbone)
    calibrated = clock()
    encoder = Encoder(backbone, calibration=calibration)
    load_s, resident = loaded - begun + clock() - calibrated, resident_bytes()
    recall = recalled(encoder, rows, progress)
    result = wild.measure(encoder, scenarios[:DOMAINS], limit, progress)
    speed = encode.measure(encoder, ENCODED, ROUNDS, progress)
    return ModelResult(
        backbone.name, backbone.model.config.model_type, backbone.model.num_parameters(),
        str(backbone.dtype).removeprefix("torch."), str(backbone.device), torch.get_num_threads(),
        encoder.weights.model_hash == backbone.hash, load_s, calibrated - loaded, resident, recall, result.all,
        result.silent, result.speed, speed.encode, speed.of_bare, clock() - begun,
    )  # fmt: skip


def recalled(encoder: Encoder, rows: Sequence[FactRow], progress: Progress) -> dict[str, Recalled]:
    """The main measures of `bench recall` on a few facts, by their names there."""
    sample = Random(SEED).sample(list(rows), min(RECALLED, len(rows)))
    if not sample:
        return {}
    lm = MemoryLM(encoder)
    run = Comparison(lm, Limits(), progress)
    learn(run, lm, [row.text for row in sample], 0.0, "learning")
    found = {}
    for name, kind in MEASURED.items():
        cases = cases_of(sample, kind)
        bare, memory = (share(wins(run, lm, cases, use, name)) for use in (False, True))
        found[name] = Recalled(len(cases), bare, memory)
    return found


def measure_apart(models: Sequence[str], options: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The result of each model as JSON, from a process of its own. Raises ModelError."""
    for model in models:
        command = [
            sys.executable,
            "-m",
            "workers.cli",
            "bench",
            "models",
            "--json",
            "--model",
            model,
            *options,
        ]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
        if done.returncode:
            raise ModelError(f"{model} was not measured; its message is above")
        yield from orjson.loads(done.stdout)


def show_models(results: Sequence[Mapping[str, Any]]) -> None:
    """A table with a column for each model, and a row for each figure."""
    table = Table("", *(Path(result["model"]).name for result in results))
    for title, cell in ROWS.items():
        table.add_row(title, *(cell(result) for result in results))
    console.print(table, markup=False)


def _recall(name: str) -> Callable[[Mapping[str, Any]], str]:
    def cell(result: Mapping[str, Any]) -> str:
        found = result["recall"].get(name)
        return f"{_share(found['memory'])} ({_share(found['bare'])})" if found else ""

    return cell


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _rate(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


ROWS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "architecture": lambda r: r["kind"],
    "parameters": lambda r: f"{r['parameters'] / 1e6:.0f} M, {r['dtype']}",
    "fitted weights of its own": lambda r: "yes" if r["fitted"] else "no",
    "recalled by prompt (bare)": _recall("efficacy"),
    "recalled by paraphrase (bare)": _recall("paraphrase"),
    "recalled by question (bare)": _recall("question"),
    "asks": lambda r: str(r["said"]["asked"]),
    "said with memory": lambda r: _share(r["said"]["memory"]),
    "said by prompting, fact found": lambda r: _share(r["said"]["prompted"]),
    "said by prompting, right fact": lambda r: _share(r["said"]["prompted_right"]),
    "said bare": lambda r: _share(r["said"]["bare"]),
    "right fact found first": lambda r: _share(r["said"]["first"]),
    "spoke; the right fact": lambda r: f"{_share(r['said']['spoke'])}; {_share(r['said']['spoke_right'])}",
    "silent where nothing answers": lambda r: _share(
        None if r["silent"]["spoke"] is None else 1 - r["silent"]["spoke"]
    ),
    "tokens/s, memory (bare)": lambda r: (
        f"{_rate(r['speed']['memory_decoding'])} ({_rate(r['speed']['bare_decoding'])})"
    ),
    "first token, ms": lambda r: f"{r['speed']['first_ms'] or 0:.0f}",
    "facts/s, encoded": lambda r: _rate(r["encode"]),
    "resident, MB": lambda r: f"{r['resident_bytes'] / 1e6:.0f}",
    "load, s": lambda r: _rate(r["load_s"]),
    "calibrate, s": lambda r: _rate(r["calibrate_s"]),
    "measured in, s": lambda r: f"{r['seconds']:.0f}",
}
