"""The command line's options that several commands share."""

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

DATA = Path(os.environ.get("FACTSTREAM_DATA") or Path.home() / ".local/share/factstream")
Bootstrap = Annotated[
    str | None, typer.Option(help="HOST:PORT of a Kafka cluster.", show_default="127.0.0.1:9092")
]
Data = Annotated[Path, typer.Option(help="The data folder.", envvar="FACTSTREAM_DATA")]
Model = Annotated[
    str, typer.Option(help="default, a hub id, a folder or a .gguf file.", envvar="FACTSTREAM_MODEL")
]
Prefix = Annotated[str | None, typer.Option(help="Before the name of every topic and group.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.", envvar="FACTSTREAM_DEVICE")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
MetricsPort = Annotated[
    str | None,
    typer.Option(help="Serve /metrics, /healthz and /readyz on PORT of this machine, or on HOST:PORT."),
]


class WorkerName(StrEnum):
    encoder = "encoder"
    writer = "writer"
    generator = "generator"


class LogFormat(StrEnum):
    text = "text"
    json = "json"
