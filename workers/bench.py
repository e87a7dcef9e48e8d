"""The command line's measurements: how well the memory recalls facts, and how well it answers about conversations."""

import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import orjson
import typer
from rich.console import Console
from rich.progress import Progress, TaskID
from rich.table import Table

if TYPE_CHECKING:
    from pipeline.bench_recall import Recall
    from pipeline.bench_scores import Measure

app = typer.Typer(help="Measure the bare model, prompting and the memory side by side.", no_args_is_help=True)
console, errors = Console(highlight=False), Console(stderr=True)

Model = Annotated[
    str, typer.Option(help="default, a hub id, a folder or a .gguf file.", envvar="FACTSTREAM_MODEL")
]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.", envvar="FACTSTREAM_DEVICE")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]

# What a measure means, in the order of the table; those in percent of change or repetition say so.
NAMES = {
    "efficacy": "the fact's target beats the true one, at its prompt",
    "paraphrase": "… at its first paraphrase",
    "question": "… asked as a question",
    "reversed_prompt": "… told with its object first, at its prompt",
    "reversed_paraphrase": "… at its first paraphrase",
    "reversed_question": "… asked as a question",
    "update": "after an update the newest beats both",
    "neighbours_true": "a neighbour's true answer is the likelier",
    "neighbour_retention": "… as a part of the bare model's share",
    "neighbours_gate_open": "a gate opens at a neighbour",
    "retrieved_prompt": "the fact is found first, at its prompt",
    "retrieved_paraphrase": "… at its first paraphrase",
    "retrieved_question": "… asked as a question",
    "said_prompt": "the target is said, at its prompt",
    "said_paraphrase": "… at its first paraphrase",
    "said_question": "… asked as a question",
    "said_reversed_prompt": "… told with its object first, at its prompt",
    "said_reversed_paraphrase": "… at its first paraphrase",
    "said_reversed_question": "… asked as a question",
    "repeated_4grams": "4-grams that repeat within a text",
    "untouched": "texts unchanged where no memory is concerned",
    "perplexity_drift": "change of the perplexity of prose",
    "skipped_known": "known facts that the loss gate skips",
    "skipped_new": "new facts that the loss gate skips",
}


@app.command()
def recall(
    facts: Annotated[Path, typer.Option(help="JSON Lines: facts with ways of asking for them.")],
    limit: Annotated[int, typer.Option(min=1, help="How many facts are asked.")] = 1000,
    said: Annotated[int, typer.Option(min=1, help="Of how many of them texts are generated.")] = 200,
    prompted: Annotated[int, typer.Option(min=1, help="Of how many of them prompting is measured.")] = 100,
    extra: Annotated[int, typer.Option(min=0, help="Invented facts to learn beside them.")] = 0,
    model: Model = "default",
    device: Device = "auto",
    as_json: Json = False,
    plot: Annotated[Path | None, typer.Option(help="A .png of the main measures by size of memory.")] = None,
) -> None:
    """Learn facts that no model knows, ask for them, and see what else has changed."""
    with _clear_errors():
        if plot:
            from workers.bench_plot import draw, need

            need()
        from pipeline.bench_asking import Bench, Limits
        from pipeline.bench_data import read_facts
        from pipeline.bench_recall import measure

        rows = read_facts(facts)
        with _bar() as progress, tempfile.TemporaryDirectory(prefix="factstream-") as folder:
            from pipeline import MemoryLM

            lm = MemoryLM.load(model, device)
            bench = Bench(lm, Limits(limit, said, prompted), time.perf_counter, progress)
            result = measure(bench, rows, extra, Path(folder), _resident, plot is not None)
        if as_json:
            print(orjson.dumps(asdict(result)).decode())
        else:
            _show(result)
        if plot:
            draw(result.curve, plot)


def _show(result: "Recall") -> None:
    table = Table("measure", "meaning", "asked", "bare", "prompting", "memory", "prompting by")
    _rows(table, result.measures, NAMES)
    console.print(table)
    told = ", ".join(f"{count} {outcome}" for outcome, count in result.outcomes.items())
    console.print(
        f"{result.model}: {result.facts} facts and {result.extra} invented ones: {told}", markup=False
    )
    told = ", ".join(f"{count} {outcome}" for outcome, count in result.updates.items())
    cost = result.cost
    console.print(f"updates: {told}")
    console.print(
        f"{cost.learn_ms:.1f} ms a fact learned; {cost.retrieve_ms:.2f} ms a prompt retrieved, p99 "
        f"{cost.retrieve_p99_ms:.2f} ms; {cost.stored_bytes:.0f} bytes a fact stored, {cost.resident_bytes:.0f} held"
    )
    console.print(f"measured in {result.seconds:.0f} s")


def _rows(table: Table, measures: Sequence["Measure"], names: dict[str, str]) -> None:
    order = list(names)
    for m in sorted(measures, key=lambda m: order.index(m.name)):
        shown = ("" if value is None else f"{100 * value:.1f} %" for value in (m.bare, m.prompting, m.memory))
        by = f"{m.prompting_by} ({m.prompting_asked})" if m.prompting_by else ""
        table.add_row(m.name, names[m.name], str(m.asked), *shown, by)


@contextmanager
def _clear_errors() -> Iterator[None]:
    """What a person can mend is one line and exit code 1, not a traceback."""
    try:
        yield
    except (ValueError, OSError, RuntimeError) as error:
        errors.print(f"error: {error}", style="red", markup=False, highlight=False)
        raise typer.Exit(1) from None


class _Shown:
    """A bar for each thing that is being measured."""

    def __init__(self, bar: Progress) -> None:
        self._bar = bar
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, what: str, more: int, total: int) -> None:
        if what not in self._tasks:
            self._tasks[what] = self._bar.add_task(what, total=total)
        self._bar.advance(self._tasks[what], more)


@contextmanager
def _bar() -> Iterator[_Shown]:
    with Progress(console=errors, transient=True, disable=not errors.is_terminal) as bar:
        yield _Shown(bar)


def _resident() -> int:
    """Bytes that the process holds; 0 where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return 0
