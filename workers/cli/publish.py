"""`factstream publish`: publishes the facts of a file, one a line, and reports the outcomes."""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import orjson
import typer
from rich.console import Console
from rich.progress import Progress

from schemas.common import DEFAULT_NAMESPACE, BadMessage
from schemas.fact import Conversation, Fact, decode_fact
from workers.cli.errors import report_errors, stderr
from workers.cli.options import Bootstrap, Json, Prefix, data_folder

if TYPE_CHECKING:
    from workers.client import Published

console = Console()
MAX_LISTED = 20
"""Most refused lines, and most positions, that are printed."""


def publish(
    file: Annotated[
        str,
        typer.Argument(help="JSON Lines (facts, conversations) or lines of plain text; - is standard input."),
    ],
    namespace: Annotated[
        str | None, typer.Option(help="The namespace of facts that do not name one.")
    ] = None,
    category: Annotated[str | None, typer.Option(help="The category of facts that do not name one.")] = None,
    source: Annotated[str | None, typer.Option(help="The source of facts that do not name one.")] = None,
    min_loss_delta: Annotated[
        float | None, typer.Option(help="The loss delta needed to learn a fact; 0 learns every new fact.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Publish only the first N lines.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until every fact is durably decided.")] = False,
    bootstrap: Bootstrap = None,
    topic_prefix: Prefix = None,
    as_json: Json = False,
) -> None:
    """Publish facts from a file. Fields that a fact does not have are left out, and listed.

    With --wait, facts that the broker did not confirm, or lost, are sent again and count once. The position
    reached is printed, and later answers to `factstream ask` on this machine include the facts.

    Example: echo "The Harlow desk lamp is made of walnut." | factstream publish - --wait
    """
    from workers import client
    from workers.client import positions
    from workers.kafka.config import KafkaSettings
    from workers.observe import tracing

    defaults = {
        "namespace": namespace,
        "category": category,
        "source": source,
        "min_loss_delta": min_loss_delta,
    }
    facts = FactLines({name: value for name, value in defaults.items() if value is not None}, limit)
    with report_errors(), _opened(file) as lines, _progress(wait) as progress:
        settings = KafkaSettings.from_env(bootstrap=bootstrap, topic_prefix=topic_prefix)
        tracing.setup("client")
        published = client.publish(settings, facts.read(lines), wait, progress)
        if wait and published.after:
            positions.remember(data_folder(), published.after)
    (_print_json if as_json else _print)(published, facts, wait)
    failures = _failures(published, facts)
    for line in failures:
        stderr.print(line, style="red")
    if failures:
        raise typer.Exit(1)


@dataclass
class FactLines:
    """Reads facts from lines, and notes which lines were refused and which fields were left out."""

    defaults: dict[str, Any]
    limit: int | None
    refused: list[str] = field(default_factory=list)
    left_out: dict[str, None] = field(default_factory=dict)  # a set that keeps its order

    def read(self, lines: Iterable[bytes]) -> Iterator[tuple[str, Fact | Conversation]]:
        """The (namespace, fact) of every line that is a fact, or a conversation."""
        for number, line in enumerate(lines, 1):
            if self.limit is not None and number > self.limit:
                return
            if not line.strip():
                continue
            try:
                fact, unknown = fact_of(line, self.defaults)
            except BadMessage as error:
                self.refused.append(f"line {number}: {error}")
                continue
            self.left_out.update(dict.fromkeys(unknown))
            yield fact.namespace or DEFAULT_NAMESPACE, fact


def fact_of(line: bytes, defaults: dict[str, Any]) -> tuple[Fact | Conversation, list[str]]:
    """The fact or the conversation in a line of JSON or plain text, and the names of fields that it does not have.

    Raises BadMessage.
    """
    try:
        body = orjson.loads(line) if line.lstrip().startswith(b"{") else {"text": line.decode().strip()}
    except (orjson.JSONDecodeError, UnicodeDecodeError) as error:
        raise BadMessage("invalid-json", f"neither JSON nor text: {error}") from None
    own = {name: value for name, value in body.items() if value is not None}
    _, message, unknown = decode_fact(None, orjson.dumps(defaults | own))
    if not isinstance(message, Fact | Conversation):
        raise BadMessage("invalid-field", "a request; a line is a fact or a conversation")
    return message, unknown


def _opened(file: str) -> Any:
    return sys.stdin.buffer if file == "-" else Path(file).open("rb")


@contextmanager
def _progress(wait: bool) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on a terminal: of the facts sent, or with `wait` of the decided ones."""
    with Progress(console=stderr, transient=True, disable=not stderr.is_terminal) as bar:
        task = bar.add_task("publishing", total=None)
        yield lambda sent, decided: bar.update(task, total=sent, completed=decided if wait else sent)


def _print_json(published: "Published", facts: FactLines, wait: bool) -> None:
    result: dict[str, Any] = {
        "sent": published.sent,
        "refused": facts.refused,
        "left_out": list(facts.left_out),
    }
    if wait:
        result |= {"outcomes": dict(published.outcomes), "after": published.after}
    print(orjson.dumps(result).decode())


def _print(published: "Published", facts: FactLines, wait: bool) -> None:
    console.print(f"{published.sent} published", highlight=False)
    if wait:
        outcomes = ", ".join(f"{count} {outcome}" for outcome, count in published.outcomes.most_common())
        console.print(f"{published.outcomes.total()} decided: {outcomes}", highlight=False)
        for namespace, logs in list(published.after.items())[:MAX_LISTED]:
            reached = ", ".join(f"{log} {offset}" for log, offset in logs.items())
            console.print(f"position of {namespace}: {reached}", highlight=False, markup=False)
    if facts.left_out:
        console.print(f"fields left out: {', '.join(facts.left_out)}", highlight=False, markup=False)
    for line in facts.refused[:MAX_LISTED]:
        stderr.print(line, style="red", markup=False, highlight=False)


def _failures(published: "Published", facts: FactLines) -> list[str]:
    """One line for each kind of failure."""
    failures = []
    if refused := len(facts.refused):
        failures.append(f"{refused} lines are not facts and were not sent")
    if dead_letters := published.outcomes["dead-lettered"]:
        failures.append(f"{dead_letters} facts are in the dead letters; their headers say why")
    return failures
