"""`factstream memories`: look at the memories by queries over the data folder, and forget one by asking its writer.

Knows the query and the topic of facts; never changes the folder, which is the writer's.
"""

from typing import Annotated

import typer
from rich.console import Console

from schemas.common import DEFAULT_NAMESPACE, validate
from schemas.fact import Forget
from workers.cli.errors import clear_errors
from workers.cli.options import DATA, Bootstrap, Data, Prefix
from workers.cli.tables import Format, show_query

app = typer.Typer(help="Look at the memories, or forget one.", no_args_is_help=True)
console = Console()


@app.command("list")
def newest(limit: int = 50, format: Format = Format.table, data: Data = DATA) -> None:
    """The newest memories."""
    columns = "memory_id, namespace, category, text, uses, learned_at"
    show_query(data, f"select {columns} from memories order by learned_at desc limit {limit}", format)


@app.command()
def search(text: str, limit: int = 20, format: Format = Format.table, data: Data = DATA) -> None:
    """Memories whose text has these words, those with most of them first."""
    from pipeline.text.words import terms_of

    quoted = [term.replace("'", "''") for term in terms_of(text)[:32]]
    hits = " + ".join(f"cast(contains(lower(text), '{word}') as int)" for word in quoted) or "0"
    sql = f"select memory_id, namespace, category, text, {hits} as words from memories where words > 0"
    show_query(data, f"{sql} order by words desc, learned_at desc limit {limit}", format)


@app.command()
def show(memory_id: str, format: Format = Format.table, data: Data = DATA) -> None:
    """One memory's life: every decision that concerned it."""
    with clear_errors():
        validate(Forget, {"forget": memory_id})
    sql = f"select * from history where memory_id = '{memory_id}' or nearest = '{memory_id}' order by decided_at"
    show_query(data, sql, format)


@app.command()
def forget(
    memory_id: str,
    namespace: str = DEFAULT_NAMESPACE,
    erase: Annotated[bool, typer.Option("--erase", help="Take its text out of the data folder too.")] = False,
    bootstrap: Bootstrap = None,
    topic_prefix: Prefix = None,
) -> None:
    """Forget a memory, in order with its namespace's facts.

    Its text stays in the history, but with --erase, for a person who asks for deletion. Topics and backups keep it
    as long as you have them keep it.
    """
    from workers.client import positions
    from workers.client import publishing as client
    from workers.kafka.clients import KafkaSettings

    with clear_errors():
        message = validate(Forget, {"forget": memory_id, "namespace": namespace, "erase": erase})
        settings = KafkaSettings.from_env(bootstrap=bootstrap, topic_prefix=topic_prefix)
        done = client.publish(settings, [(namespace, message)], wait=True)
        if done.outcomes["dead-lettered"]:
            raise client.ClientError("the request is in the dead letters: see its reason there")
        positions.remember(DATA, done.after)
        console.print(f"{'erased' if erase else 'forgotten'}: {memory_id}")
