"""`factstream memories`: commands that list, search, show and forget memories."""

from typing import Annotated

import typer
from rich.console import Console

from schemas.common import DEFAULT_NAMESPACE, validate
from schemas.fact import Forget
from workers.cli.errors import report_errors
from workers.cli.options import Bootstrap, Data, Prefix, data_folder
from workers.cli.tables import Format, show_query

app = typer.Typer(help="List, search, show or forget memories.", no_args_is_help=True)
console = Console()

Limit = Annotated[int, typer.Option(help="The most rows to print.")]
MemoryId = Annotated[str, typer.Argument(help="The id that `factstream memories list` prints.")]


@app.command("list")
def newest(data: Data, limit: Limit = 50, format: Format = Format.table) -> None:
    """List the newest memories."""
    columns = "memory_id, namespace, category, text, uses, learned_at"
    show_query(data, f"select {columns} from memories order by learned_at desc limit {limit}", format)


@app.command()
def search(
    text: Annotated[str, typer.Argument(help="Some words.")],
    data: Data,
    limit: Limit = 20,
    format: Format = Format.table,
) -> None:
    """Find memories whose text contains some of these words; those that contain the most come first."""
    from pipeline.text.words import terms_of

    quoted = [term.replace("'", "''") for term in terms_of(text)[:32]]
    hits = " + ".join(f"cast(contains(lower(text), '{word}') as int)" for word in quoted) or "0"
    sql = f"select memory_id, namespace, category, text, {hits} as words from memories where words > 0"
    show_query(data, f"{sql} order by words desc, learned_at desc limit {limit}", format)


@app.command()
def show(memory_id: MemoryId, data: Data, format: Format = Format.table) -> None:
    """Show every decision about one memory, the oldest first."""
    with report_errors():
        validate(Forget, {"forget": memory_id})
    sql = f"select * from history where memory_id = '{memory_id}' or nearest = '{memory_id}' order by decided_at"
    show_query(data, sql, format)


@app.command()
def forget(
    memory_id: MemoryId,
    namespace: Annotated[str, typer.Option(help="The memory's namespace.")] = DEFAULT_NAMESPACE,
    erase: Annotated[
        bool, typer.Option("--erase", help="Also remove its text from the data folder.")
    ] = False,
    bootstrap: Bootstrap = None,
    topic_prefix: Prefix = None,
) -> None:
    """Forget a memory. The request is decided in order with the namespace's facts.

    The text stays in the history unless --erase is given, for example because a person asked for deletion.
    Topics and backups keep it until their retention ends.
    """
    from workers import client
    from workers.client import positions
    from workers.kafka.config import KafkaSettings

    with report_errors():
        message = validate(Forget, {"forget": memory_id, "namespace": namespace, "erase": erase})
        settings = KafkaSettings.from_env(bootstrap=bootstrap, topic_prefix=topic_prefix)
        published = client.publish(settings, [(namespace, message)], wait=True)
        if published.outcomes["dead-lettered"]:
            raise client.ClientError("the request is in the dead letters; its headers say why")
        positions.remember(data_folder(), published.after)
        console.print(f"{'erased' if erase else 'forgotten'}: {memory_id}")
