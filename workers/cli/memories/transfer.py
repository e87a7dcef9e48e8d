"""`factstream memories export` and `import`: memories as a file, out of a data folder and into a stack."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import orjson
import typer
from rich.console import Console
from rich.progress import Progress

from workers.cli.errors import report_errors, stderr
from workers.cli.options import Bootstrap, Data, Json, Prefix, data_folder

if TYPE_CHECKING:
    from workers.client.importing import Imported

console = Console()


def export(
    file: Annotated[
        str, typer.Argument(help="A name that ends with .jsonl or .parquet; - is JSON Lines on standard output.")
    ],
    data: Data,
    namespace: Annotated[str | None, typer.Option(help="Only memories of this namespace.")] = None,
    category: Annotated[str | None, typer.Option(help="Only memories of this category.")] = None,
    as_json: Json = False,
) -> None:
    """Export memories with their history: those that speak, and those that another replaced. docs/export.md has the columns.

    It reads the data folder, so it needs no broker. The file appears when it is complete.

    Example: factstream memories export ada.jsonl --namespace ada@example.com
    """
    from pipeline.files import atomic_file
    from pipeline.query.export import export as write
    from pipeline.query.filter import Filter

    chosen = Filter(namespace=namespace or "", category=category or "")
    with report_errors():
        suffix = ".jsonl" if file == "-" else Path(file).suffix
        if suffix not in (".jsonl", ".parquet"):
            raise ValueError(f"{file}: the name of an export ends with .jsonl or .parquet")
        with _bar("exporting") as bar:
            if file == "-":
                try:
                    counts = write(data, chosen, sys.stdout.buffer, False, bar)
                    sys.stdout.flush()
                except BrokenPipeError:  # the reader has enough
                    sys.stderr.close()
                    raise typer.Exit(1) from None
            else:
                with atomic_file(Path(file)) as out:
                    counts = write(data, chosen, out, suffix == ".parquet", bar)
    if as_json and file != "-":
        print(orjson.dumps({"file": file} | counts).decode())
    else:
        stderr.print(f"exported: {counts['remembered']} memories, {counts['superseded']} superseded ones")


@contextmanager
def _bar(what: str, total: int | None = None) -> Iterator[Any]:
    """A progress bar on a terminal; the block calls it with the number done."""
    with Progress(console=stderr, transient=True, disable=not stderr.is_terminal) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.update(task, completed=done)
