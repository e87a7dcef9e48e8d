"""`factstream memories`: commands that list, search, show, forget and restore memories."""

from collections.abc import Collection
from typing import Annotated

import typer
from rich.console import Console

from schemas.common import DEFAULT_NAMESPACE, BadMessage, validate
from schemas.fact import Forget, ForgetAll, ForgetKey, Request, Restore
from workers.cli.errors import report_errors
from workers.cli.memories import listing, transfer
from workers.cli.options import Bootstrap, Data, Prefix, data_folder
from workers.cli.tables import Format, show_query

app = typer.Typer(help="List, search, show, forget or restore memories.", no_args_is_help=True)
console = Console()

Limit = Annotated[int, typer.Option(min=1, help="The most rows to print.")]
MemoryId = Annotated[str, typer.Argument(help="The id that `factstream memories list` prints.")]
InNamespace = Annotated[str, typer.Option(help="The memory's namespace.")]

app.command("list")(listing.newest)
app.command()(listing.search)
app.command()(transfer.export)
app.command("import")(transfer.import_)


@app.command()
def show(memory_id: MemoryId, data: Data, format: Format = Format.table) -> None:
    """Show every decision about one memory, the oldest first."""
    with report_errors():
        validate(Forget, {"forget": memory_id})
    sql = "select * from history where memory_id = $id or nearest = $id order by decided_at"
    show_query(data, sql, format, {"id": memory_id})


@app.command()
def superseded(data: Data, limit: Limit = 50, format: Format = Format.table) -> None:
    """List memories that speak no longer since another replaced them, by which rule, and by which memory."""
    columns = "memory_id, namespace, text, rule, superseded_by, superseded_at"
    sql = f"select {columns} from superseded order by superseded_at desc limit $limit"
    show_query(data, sql, format, {"limit": limit})


@app.command()
def restore(
    memory_id: Annotated[str, typer.Argument(help="The id that `factstream memories superseded` prints.")],
    namespace: InNamespace = DEFAULT_NAMESPACE,
    bootstrap: Bootstrap = None,
    topic_prefix: Prefix = None,
) -> None:
    """Bring a superseded memory back, as if it was stated again now. The request is decided in order with the facts.

    It speaks beside the memory that replaced it, and is the newer one; of a key with one value it takes that
    one's place. The newest 10,000 superseded memories of a namespace can be restored.
    """
    with report_errors():
        message = validate(Restore, {"restore": memory_id, "namespace": namespace})
        if "restored" not in _sent(message, namespace, bootstrap, topic_prefix):
            raise BadMessage("unknown", f"{memory_id} is not superseded, or is not kept any more")
        console.print(f"restored: {memory_id}")


@app.command()
def forget(
    memory_id: Annotated[
        str | None, typer.Argument(help="The id that `factstream memories list` prints.")
    ] = None,
    namespace: Annotated[
        str | None, typer.Option(help="The namespace; needed with --all, else default.")
    ] = None,
    key: Annotated[
        str | None, typer.Option(help="Forget what this key of the upstream system states.")
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Forget all memories of the namespace, however many.")
    ] = False,
    erase: Annotated[
        bool, typer.Option("--erase", help="Also remove the texts from the data folder.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="With --all: do not ask.")] = False,
    bootstrap: Bootstrap = None,
    topic_prefix: Prefix = None,
) -> None:
    """Forget a memory, what a key states, or a whole namespace. Decided in order with the namespace's facts.

    The text stays in the history unless --erase is given, for example because a person asked for deletion.
    Topics and backups keep it until their retention ends.

    Example: factstream memories forget --namespace ada@example.com --all --erase
    """
    given = [memory_id is not None, key is not None, everything]
    if sum(given) != 1:
        raise typer.BadParameter("give one of MEMORY_ID, --key and --all")
    if everything and namespace is None:
        raise typer.BadParameter("--all needs --namespace")
    space = namespace or DEFAULT_NAMESPACE
    model: type[Request] = Forget if memory_id is not None else ForgetKey if key is not None else ForgetAll
    body = {"forget": memory_id, "forget_key": key, "forget_all": True if everything else None}
    with report_errors():
        own = {name: value for name, value in body.items() if value is not None}
        message = validate(model, own | {"namespace": space, "erase": erase})
        if everything and not yes:
            what = "erase, for good," if erase else "forget"
            typer.confirm(f"{what.capitalize()} all memories of the namespace {space!r}?", abort=True)
        _sent(message, space, bootstrap, topic_prefix)
        shown = memory_id or (f"key {key}" if key is not None else f"all of {space}")
        console.print(f"{'erased' if erase else 'forgotten'}: {shown}", markup=False, highlight=False)


def _sent(
    message: Request, namespace: str, bootstrap: str | None, topic_prefix: str | None
) -> Collection[str]:
    """Publishes a request, waits for its decision and returns the outcomes. Raises ClientError."""
    from workers import client
    from workers.client import positions
    from workers.kafka.config import KafkaSettings

    settings = KafkaSettings.from_env(bootstrap=bootstrap, topic_prefix=topic_prefix)
    published = client.publish(settings, [(message.namespace or namespace, message)], wait=True)
    if published.outcomes["dead-lettered"]:
        raise client.ClientError("the request is in the dead letters; its headers say why")
    positions.remember(data_folder(), published.after)
    return set(published.outcomes)
