"""The command line: every command mirrors one library call.

A command imports what it needs when it runs, so that `--help` and short commands start without torch, Kafka
or DuckDB.
"""

import os
import sys
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated

import typer

from workers.cli.ask import ask
from workers.cli.bench import app as bench_app
from workers.cli.bulk.encoding import encode, reencode
from workers.cli.bulk.loading import load
from workers.cli.chat.command import chat
from workers.cli.errors import report_errors
from workers.cli.memories import app as memories_app
from workers.cli.model import app as model_app
from workers.cli.model import bench_models
from workers.cli.options import Bootstrap, Data, Json, Model, Prefix
from workers.cli.publish import publish
from workers.cli.run import mcp, mirror, serve, up, worker
from workers.cli.scale.command import bench_scale
from workers.cli.tables import Format, show_query

app = typer.Typer(help="Continual learning for frozen language models, as a stream.", no_args_is_help=True)
schemas_app = typer.Typer(help="The schemas of the messages on the topics.", no_args_is_help=True)
app.add_typer(memories_app, name="memories")
app.add_typer(model_app, name="model")
app.add_typer(schemas_app, name="schemas")
app.add_typer(bench_app, name="bench")
bench_app.command("models")(bench_models)
bench_app.command("scale")(bench_scale)

app.command()(worker)
app.command()(up)
app.command()(publish)
app.command()(ask)
app.command()(chat)
app.command()(encode)
app.command()(load)
app.command()(reencode)


@app.command("map")
def map_sample(
    config: Annotated[Path, typer.Option(help="The sources and their statements, in YAML: docs/sources.md.")],
    sample: Annotated[
        str,
        typer.Option(
            help="A file with a record's value as it is on the topic, or with lines of `kcat -J`; - is standard input."
        ),
    ],
    topic: Annotated[str | None, typer.Option(help="Its topic, where several are configured.")] = None,
    key: Annotated[str | None, typer.Option(help="The record's key.")] = None,
    header: Annotated[
        list[str] | None, typer.Option(help="NAME=VALUE, a header of the record; may be repeated.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show what a record of a source becomes, and why, without a broker. Exit code 1 if it becomes a dead letter.

    Example: kcat -C -t shop.public.product -c 5 -J | factstream map --config sources.yaml --sample -
    """
    from workers.source import sample as samples
    from workers.source.config import load

    with report_errors():
        data = sys.stdin.buffer.read() if sample == "-" else Path(sample).read_bytes()
        records = samples.read(data, topic, key, header or [])
        results = samples.map_all(load(config), records)
        for result in results:
            print(samples.as_json(result) if as_json else samples.as_text(result))
    if any(result.error for result in results):
        raise typer.Exit(1)


@app.command()
def watch(
    interval: Annotated[float, typer.Option(min=0.2, max=60, help="Seconds between two updates.")] = 1.0,
    bootstrap: Bootstrap = None,
    topic_prefix: Prefix = None,
    as_json: Json = False,
) -> None:
    """Show lag, facts per second, decisions and answers as they happen, until Ctrl-C.

    With --json, prints one line of JSON per update. It only reads topics, so it can run on any machine.
    """
    from workers.cli.watch import run
    from workers.kafka.config import KafkaSettings

    with report_errors():
        run(KafkaSettings.from_env(bootstrap=bootstrap, topic_prefix=topic_prefix), interval, as_json)


@app.command()
def query(
    sql: Annotated[str, typer.Argument(help="A SELECT statement in DuckDB's SQL.")],
    data: Data,
    param: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=VALUE: the text that $NAME stands for in the SQL; may be repeated. Quote the SQL with '."
        ),
    ] = None,
    format: Annotated[Format, typer.Option(help="How to print the rows.")] = Format.table,
) -> None:
    """Query the history with SQL: the views history, memories, generations and dead_letters.

    A value from elsewhere belongs in a parameter, not in the SQL. It is a text: cast it where a number is needed.

    Example: factstream query "select outcome, count(*) from history group by outcome"

    Example: factstream query 'select text from memories where category = $c limit $n' --param c=catalogue --param n=9
    """
    with report_errors():
        pairs = [text.partition("=") for text in param or []]
        for name, sign, _ in pairs:
            if not (name and sign):
                raise ValueError(f"{name!r} is not NAME=VALUE")
    show_query(data, sql, format, {name: value for name, _, value in pairs})


app.command()(serve)
app.command()(mcp)
app.command()(mirror)
app.command("ui", help="Serve the web page: the same as `serve`.")(serve)


@app.command()
def digest(data: Data) -> None:
    """Print the SHA-256 of the memory that results from the history. Equal histories have equal digests."""
    from pipeline.history import log
    from pipeline.memory import bank
    from pipeline.store.opening import store_at

    with report_errors():
        store, banks = store_at(data), []
        for partition in store.partitions():
            with store.view(partition, rows=False) as folder:
                banks.append(bank.fold(row for _, rows in log.read(folder, partition) for row in rows))
        print(bank.digest(banks))


@app.command()
def doctor(
    data: Data,
    bootstrap: Bootstrap = None,
    topic_prefix: Prefix = None,
    model: Model = "default",
    as_json: Json = False,
) -> None:
    """Check the installation, the model, the broker and the data folder; exit code 1 if something is wrong."""
    from workers.cli.doctor import run
    from workers.kafka.config import KafkaSettings

    with report_errors():
        settings = KafkaSettings.from_env(bootstrap=bootstrap, topic_prefix=topic_prefix)
        raise typer.Exit(run(settings, data, model, as_json))


@app.command()
def demo(
    facts: Annotated[Path | None, typer.Option(help="A JSON Lines file to publish at the end.")] = None,
) -> None:
    """Show the main features, end to end, on a stack of its own in a temporary folder."""
    from workers.cli.demo import run

    with report_errors():
        raise typer.Exit(run(facts))


@schemas_app.command("export")
def schemas_export(folder: Annotated[Path, typer.Argument(help="Created if missing.")]) -> None:
    """Write the JSON Schemas and the AsyncAPI document to a folder."""
    from schemas.export import export

    with report_errors():
        folder.mkdir(parents=True, exist_ok=True)
        print(*export(folder), sep="\n")


def main() -> None:
    """The entry point `factstream`."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # also into a pipe: its reader waits for lines
    # torch reads this when it is loaded. OpenMP threads that spin while they wait take the cores from the other
    # workers: each of two encoders on two cores then drops to a third of its speed from time to time.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    app()
