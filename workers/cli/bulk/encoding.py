"""`factstream encode` and `factstream reencode`: encodings in a folder, for `factstream load`."""

from dataclasses import asdict
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from rich.console import Console

from workers.cli.errors import report_errors, stderr
from workers.cli.memories.transfer import progress_bar
from workers.cli.options import Data, Device, Json, Model, local_path

console = Console()

Out = Annotated[
    Path,
    typer.Option(
        help="The folder of the job, made if it is missing; all shards have the same.",
        parser=local_path,
        metavar="FOLDER",
    ),
]
ShardOption = Annotated[
    str,
    typer.Option(
        "--shard",
        help="I/N: only every Nth file, from file I on, counted from 0. Run the others on other machines.",
    ),
]
RayActors = Annotated[
    int | None,
    typer.Option(min=1, help="Run on Ray Data with so many processes; needs the extra ray, and no --shard."),
]
RayGpus = Annotated[
    float, typer.Option(min=0.0, max=8.0, help="GPUs of each of these processes; 0.5 lets two share one.")
]


def encode(
    source: Annotated[
        Path,
        typer.Option(
            "--in",
            help="A .jsonl or .parquet file of facts, or a folder of them.",
            parser=local_path,
            metavar="PATH",
        ),
    ],
    out: Out,
    shard: ShardOption = "0/1",
    model: Model = "default",
    device: Device = "auto",
    ray_actors: RayActors = None,
    ray_gpus: RayGpus = 0.0,
    as_json: Json = False,
) -> None:
    """Encode the facts of files into files, without a broker: on as many machines as there are, in any order.

    A line of JSON is what a producer would publish; a row of Parquet has the columns of a fact, or a column `value` with such lines. A
    command that was stopped or killed goes on where it was when it is given again. Then `factstream load` brings the encodings to the
    writers. Facts that cannot be encoded are reported and kept in the files, and the exit code is 1.

    Example: factstream encode --in facts.parquet --out encoded --shard 0/4
    """
    with report_errors():
        _encode(source, out, shard, model, device, ray_actors, ray_gpus, as_json, {})


def reencode(
    out: Out,
    data: Data,
    model: Annotated[str, typer.Option(help="The new model: default, a hub id, a folder or a .gguf file.")],
    shard: ShardOption = "0/1",
    device: Device = "auto",
    ray_actors: RayActors = None,
    ray_gpus: RayGpus = 0.0,
    as_json: Json = False,
) -> None:
    """Encode the memories of a data folder with another model, without a broker, for `factstream load` into a new installation.

    It takes a snapshot of the memories first, which is kept in the folder, and then works as `factstream encode` does. The data folder is only
    read. docs/reencode.md has the whole change of a model.

    Example: factstream reencode --model new-model.gguf --out new-encodings
    """
    from workers.bulk.reencode import take

    with report_errors():
        taken = take(data, out)
        found = {"remembered": taken.remembered, "superseded": taken.superseded, "left_out": taken.left_out}
        if not as_json:
            console.print(f"{taken.remembered} memories, {taken.superseded} superseded ones", highlight=False)
            if taken.left_out:
                console.print(
                    f"{taken.left_out} superseded ones are left out: no key says that they are replaced",
                    highlight=False,
                )
        _encode(taken.facts, out, shard, model, device, ray_actors, ray_gpus, as_json, found)


def _encode(
    source: Path,
    out: Path,
    shard: str,
    model: str,
    device: str,
    ray_actors: int | None,
    ray_gpus: float,
    as_json: bool,
    found: dict[str, int],
) -> None:
    from workers.bulk.encode import Done
    from workers.bulk.job import Shard

    part, now = Shard.parse(shard), datetime.now(UTC)
    if ray_actors is None:
        done = _here(source, out, part, model, device, now)
    else:
        if part.of > 1:
            raise ValueError("--shard: Ray shares out the work by itself")
        if find_spec("ray") is None:
            raise ValueError("Ray is not installed: pip install 'factstream[ray]'")
        from workers.bulk import on_ray

        job = on_ray.encode(source, out, model, device, on_ray.Pool(ray_actors, ray_gpus), now)
        done = Done(job, job.rows)
    _show(done, out, as_json, found)


def _here(source: Path, out: Path, part: Any, model: str, device: str, now: datetime) -> Any:
    from pipeline.ingest.encoding import Stopped
    from workers.bulk import encode as bulk
    from workers.runtime.loading import kept_objects
    from workers.runtime.signals import Stop, stopped_by_signals

    with kept_objects():
        from pipeline.ingest.encoder import Encoder

        encoder = Encoder.load(model, device)
    stop = Stop()
    try:
        with stopped_by_signals(stop), progress_bar("encoding") as bar:
            return bulk.encode(source, out, encoder, now, part, stop.is_set, bar)
    except Stopped:
        stderr.print("stopped: the same command goes on where this one was", style="red")
        raise typer.Exit(130) from None


def _show(done: Any, out: Path, as_json: bool, found: dict[str, int]) -> None:
    job = done.job
    if as_json:
        own = {name: value for name, value in asdict(done).items() if name != "job"}
        print(orjson.dumps({"job_id": job.job_id, "encoder_id": job.encoder_id} | found | own).decode())
    else:
        console.print(f"{done.rows} facts encoded, {done.before} of them before: {out}", highlight=False)
        if done.left_out:
            console.print(f"fields left out: {', '.join(done.left_out)}", highlight=False, markup=False)
        for line in done.reasons:
            stderr.print(line, style="red", markup=False, highlight=False, soft_wrap=True)
    if done.refused:
        stderr.print(f"{done.refused} facts were refused; `load` sends them to the dead letters", style="red")
        raise typer.Exit(1)
