"""The options that several commands share."""

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


def data_folder() -> Path:
    """FACTSTREAM_DATA, or the default in the home folder, read at each call; of a store, its folder on this machine."""
    return _folder_of(os.environ.get("FACTSTREAM_DATA") or str(Path.home() / ".local/share/factstream"))


def _folder_of(place: str | Path) -> Path:
    """The folder of an option's value, or of its default, which is a folder already."""
    from pipeline.store.place import folder_of

    try:
        return folder_of(str(place))
    except (ValueError, OSError) as error:
        raise typer.BadParameter(str(error)) from error


def local_path(place: str | Path) -> Path:
    """The path of a file or folder of this machine, which a URL of a store is not."""
    if "://" in str(place):
        raise typer.BadParameter(
            f"{place}: has to be on this machine; only --data and mirror --to take a store. Mount it, or copy it with the cloud's own tool"
        )
    return Path(place)


Bootstrap = Annotated[
    str | None, typer.Option(help="HOST:PORT of a Kafka cluster.", show_default="127.0.0.1:9092")
]
Data = Annotated[
    Path,
    typer.Option(
        help="The data folder, or a store: s3://, gs:// or az://BUCKET/PREFIX.",
        envvar="FACTSTREAM_DATA",
        parser=_folder_of,
        metavar="FOLDER|URL",
        default_factory=data_folder,
        show_default="~/.local/share/factstream",
    ),
]
Model = Annotated[
    str, typer.Option(help="default, a hub id, a folder or a .gguf file.", envvar="FACTSTREAM_MODEL")
]
Prefix = Annotated[str | None, typer.Option(help="A prefix of the names of all topics and consumer groups.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.", envvar="FACTSTREAM_DEVICE")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
MetricsPort = Annotated[
    str | None,
    typer.Option(help="Serve /metrics, /healthz and /readyz on PORT of this machine, or on HOST:PORT."),
]


Sources = Annotated[
    Path | None,
    typer.Option(help="The file that says which topics are read and what their rows state: docs/sources.md."),
]


class WorkerName(StrEnum):
    encoder = "encoder"
    writer = "writer"
    generator = "generator"
    source = "source"


class LogFormat(StrEnum):
    text = "text"
    json = "json"


class PeerName(StrEnum):
    """A program that generates from a GGUF, too."""

    LLAMA_CPP = "llama.cpp"


Peer = Annotated[
    PeerName | None,
    typer.Option(
        help="Compare 1, 4, 16 and 64 prompts at once with this program on the same GGUF; needs the extra peer."
    ),
]
