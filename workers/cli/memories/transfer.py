"""`factstream memories export` and `import`: a file, out of a data folder and into a stack."""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import orjson
import typer
from rich.console import Console
from rich.progress import Progress

from workers.cli.errors import report_errors, stderr
from workers.cli.options import Bootstrap, Data, Json, Prefix, data_folder, local_path

if TYPE_CHECKING:
    from workers.client.exported import Checked

console = Console()


def export(
    file: Annotated[
        str,
        typer.Argument(help="A name that ends with .jsonl or .parquet; - is JSON Lines on standard output."),
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
        suffix = ".jsonl" if file == "-" else local_path(file).suffix
        if suffix not in (".jsonl", ".parquet"):
            raise ValueError(f"{file}: the name of an export ends with .jsonl or .parquet")
        with progress_bar("exporting") as bar:
            if file == "-":
                try:
                    counts = write(data, chosen, sys.stdout.buffer, False, bar)
                    sys.stdout.flush()
                except BrokenPipeError:  # the reader has enough; Python would complain once more at its end
                    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                    raise typer.Exit(1) from None
            else:
                with atomic_file(Path(file)) as out:
                    counts = write(data, chosen, out, suffix == ".parquet", bar)
    if as_json and file != "-":
        print(orjson.dumps({"file": file} | counts).decode())
    else:
        stderr.print(f"exported: {counts['remembered']} memories, {counts['superseded']} superseded ones")


def import_(
    file: Annotated[
        str, typer.Argument(help="A file of `factstream memories export`; - is JSON Lines on standard input.")
    ],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only check the file, and say what it has.")
    ] = False,
    again: Annotated[
        bool,
        typer.Option(
            "--again", help="Also bring back what was decided here before and then forgotten or evicted."
        ),
    ] = False,
    bootstrap: Bootstrap = None,
    topic_prefix: Prefix = None,
    as_json: Json = False,
) -> None:
    """Publish exported memories as facts, so that the model here learns them, and wait until they are decided.

    A wrong line is refused with its number, and then nothing is published. Importing a file twice changes nothing; an import
    that was stopped goes on where it was. What cannot be carried over is in docs/export.md.

    Example: factstream memories import ada.jsonl
    """
    from workers.client import exported, importing, positions
    from workers.kafka.config import KafkaSettings

    with report_errors(), _as_file(file) as path:
        checked = exported.check(path)
        if checked.wrong_count:
            _refuse(checked, as_json)
        found = {
            "remembered": checked.remembered,
            "superseded": checked.superseded,
            "left_out": len(checked.orphans),
        }
        if dry_run:
            _print(found, as_json)
            return
        settings = KafkaSettings.from_env(bootstrap=bootstrap, topic_prefix=topic_prefix)
        try:
            with progress_bar("importing", checked.lines) as bar:
                done = importing.import_memories(settings, path, checked, data_folder(), again, bar)
        except KeyboardInterrupt:
            stderr.print("stopped: the same command goes on where this one was", style="red")
            raise typer.Exit(130) from None
        positions.remember(data_folder(), done.after)
        _print(found | {"resumed_after": done.resumed_after, "outcomes": dict(done.outcomes),
            "not_remembered": done.not_remembered, "forgotten": done.forgotten, "after": done.after}, as_json)  # fmt: skip
        if dead_letters := done.outcomes["dead-lettered"]:
            stderr.print(f"{dead_letters} facts are in the dead letters; their headers say why", style="red")
            raise typer.Exit(1)


@contextmanager
def _as_file(file: str) -> Iterator[Path]:
    """The file; standard input is kept in a temporary one, since it is read twice."""
    if file != "-":
        yield local_path(file)
        return
    with tempfile.NamedTemporaryFile(suffix=".jsonl") as kept:
        while some := sys.stdin.buffer.read(1 << 20):
            kept.write(some)
        kept.flush()
        yield Path(kept.name)


def _refuse(checked: "Checked", as_json: bool) -> None:
    """Tells which lines are wrong. Raises typer.Exit."""
    if as_json:
        print(orjson.dumps({"wrong": checked.wrong_count, "lines": checked.wrong}).decode())
    else:
        for line in checked.wrong:
            stderr.print(line, style="red", markup=False, highlight=False, soft_wrap=True)
    stderr.print(f"{checked.wrong_count} lines are wrong, so nothing was published", style="red")
    raise typer.Exit(1)


def _print(result: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(orjson.dumps(result).decode())
        return
    console.print(f"{result['remembered']} memories, {result['superseded']} superseded ones", highlight=False)
    notes = {
        "resumed_after": "lines were finished before",
        "left_out": "superseded ones are left out: what replaced them is not in the file",
        "not_remembered": "were decided here before, and then forgotten, evicted or replaced; --again brings them back",
        "forgotten": "superseded ones are forgotten: what replaced them does not replace them here",
    }
    for name, words in notes.items():
        if count := result.get(name):
            console.print(f"{count} {words}", highlight=False)
    if outcomes := result.get("outcomes"):
        listed = ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items()))
        console.print(f"{sum(outcomes.values())} decided: {listed}", highlight=False)


@contextmanager
def progress_bar(what: str, total: int | None = None) -> Iterator[Any]:
    """A progress bar on a terminal; the block calls it with the number done, and with the total where that is known only then."""
    with Progress(console=stderr, transient=True, disable=not stderr.is_terminal) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done, total=None: bar.update(task, completed=done, total=total)
