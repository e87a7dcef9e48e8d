"""`factstream model` (fetch, calibrate and fit a frozen model), and `factstream bench models`."""

from pathlib import Path
from typing import Annotated, Any

import orjson
import typer

from workers.cli.errors import report_errors
from workers.cli.options import Device, Json, Model

app = typer.Typer(help="Fetch, calibrate or fit the frozen model.", no_args_is_help=True)

ModelName = Annotated[
    str, typer.Argument(help="default, a hub id, a folder or a .gguf file.", envvar="FACTSTREAM_MODEL")
]


@app.command("pull")
def model_pull(model: ModelName = "default") -> None:
    """Fetch and convert a model, and print its folder."""
    from pipeline.model.hub import resolve

    with report_errors():
        print(resolve(model))


@app.command("calibrate")
def model_calibrate(
    model: ModelName = "default",
    samples: Annotated[
        Path | None,
        typer.Option(
            help="Your own texts: one a line, or JSON Lines with `text`. They take the place of what the model writes by "
            "itself, and of a calibration that exists."
        ),
    ] = None,
    device: Device = "auto",
) -> None:
    """Calibrate the comparison of a model's word states, and print the file.

    A calibration that exists, or is shipped, is kept: it is never computed twice. A worker that has no such file makes it. All
    workers must have the same file: make it once and copy it. With --samples the model gets another calibration: what it
    learned with the one before is not read any more, so calibrate before the first fact.

    Example: factstream model calibrate my-model.gguf --samples notes.jsonl
    """
    from pipeline.ingest.samples import read_samples
    from workers.cli.bench.measuring import measuring

    with report_errors(), measuring() as (progress, _):
        texts = None if samples is None else read_samples(samples)  # a bad file fails before torch is loaded
        from pipeline.model.backbone import Backbone
        from pipeline.model.calibration import ensure, replace

        backbone = Backbone.load(model, device)
        print(ensure(backbone, progress) if texts is None else replace(backbone, texts, progress))


@app.command("fit")
def model_fit(
    files: Annotated[
        list[Path], typer.Argument(help="JSON Lines files of scenarios: examples/wild/README.md.")
    ],
    model: Model = "default",
    device: Device = "auto",
    out: Annotated[Path | None, typer.Option(help="Write the weights here, not to the cache.")] = None,
    as_json: Json = False,
) -> None:
    """Fit the prefix and the head by which a model reads its memories, and print what they give on domains left out.

    No weight of the model changes. More than an hour on two processors for a model of 135M parameters. All workers must have the
    same file: fit it once and copy it.

    Example (dev.jsonl is kept to measure with): factstream model fit examples/wild/[!d]*.jsonl examples/[er]*.jsonl
    """
    from workers.cli.bench.measuring import measuring

    with report_errors(), measuring() as (progress, _):
        from pipeline.bench.wild.scenario import read_scenarios

        scenarios = read_scenarios(files)  # a bad file fails before torch is loaded
        from pipeline.fit.fit import fit
        from pipeline.ingest.encoder import Encoder
        from pipeline.model.weights import keep, weights_path
        from workers.bench.fit import show

        encoder = Encoder.load(model, device)
        fitted = fit(encoder, scenarios, progress)
        show(fitted, keep(fitted.content, out or weights_path(encoder.backbone)), as_json)


def bench_models(
    model: Annotated[
        list[str] | None, typer.Option(help="default, a hub id, a folder or a .gguf file; may be repeated.")
    ] = None,
    wild: Annotated[Path, typer.Option(help="A JSON Lines file of asks, as for `bench wild`.")] = Path(
        "examples/wild/dev.jsonl"
    ),
    facts: Annotated[
        Path | None, typer.Option(help="A JSON Lines file, as for `bench recall`, to measure recall on, too.")
    ] = None,
    limit: Annotated[
        int, typer.Option(min=1, help="Asks of a domain, and prompts that no fact answers.")
    ] = 8,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Measure models side by side: recall, answers, silence, speed and memory, each in a process of its own.

    Example: factstream bench models --model default --model qwen2.5-coder-0.5b.gguf
    """
    from workers.cli.bench.measuring import measuring

    with report_errors(), measuring() as (progress, _):
        from pipeline.bench.files import read_facts
        from pipeline.bench.wild.scenario import read_scenarios

        rows = read_facts(facts) if facts else []  # a bad file fails before torch is loaded
        scenarios = read_scenarios([wild])
        from dataclasses import asdict

        from workers.bench.models import measure, measure_apart, show_models

        results: list[dict[str, Any]] = []
        try:
            if len(models := model or ["default"]) == 1:
                results.append(asdict(measure(models[0], device, scenarios, rows, limit, progress)))
            else:
                options = ["--wild", str(wild), "--limit", str(limit), "--device", device]
                for result in measure_apart(models, options + (["--facts", str(facts)] if facts else [])):
                    results.append(result)
        finally:  # also where a model fails after others have been measured
            print(orjson.dumps(results).decode()) if as_json else show_models(results)
