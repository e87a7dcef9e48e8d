"""`factstream load`: the encodings of a job go to the writers."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import orjson
import typer
from rich.console import Console

from workers.cli.errors import report_errors, stderr
from workers.cli.memories.transfer import progress_bar
from workers.cli.options import Bootstrap, Json, Prefix, local_path

console = Console()


def load(
    folder: Annotated[
        Path,
        typer.Argument(
            help="The --out of `factstream encode` or `factstream reencode`.",
            parser=local_path,
            metavar="FOLDER",
        ),
    ],
    bootstrap: Bootstrap = None,
    topic_prefix: Prefix = None,
    as_json: Json = False,
) -> None:
    """Send the encodings of a job to the writers, in the order of the facts, and wait until they are decided.

    A load that was stopped or killed is given again, and nothing counts twice. A job that lacks encodings is refused at the first that
    is missing. Facts that could not be encoded go to the dead letters.

    Example: factstream load encoded --topic-prefix new.
    """
    from workers.bulk import load as bulk
    from workers.kafka.config import KafkaSettings
    from workers.runtime.signals import Stop, stopped_by_signals

    stop = Stop()
    with report_errors():
        settings = KafkaSettings.from_env(bootstrap=bootstrap, topic_prefix=topic_prefix)
        try:
            with stopped_by_signals(stop), progress_bar("loading") as bar:
                loaded = bulk.load(settings, folder, stop.is_set, bar)
        except bulk.Stopped:
            stderr.print("stopped: the same command goes on, and nothing counts twice", style="red")
            raise typer.Exit(130) from None
    if as_json:
        print(orjson.dumps(asdict(loaded)).decode())
    else:
        console.print(f"{loaded.sent} of {loaded.rows} facts loaded, as {loaded.job_id}", highlight=False)
    if loaded.refused:
        stderr.print(f"{loaded.refused} facts are in the dead letters; their headers say why", style="red")
        raise typer.Exit(1)
