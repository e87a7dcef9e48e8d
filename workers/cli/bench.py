"""The command line's measurements: how well the memory recalls facts, and how well it answers about conversations."""

import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import orjson
import typer
from rich.console import Console
from rich.progress import Progress, TaskID
from rich.table import Table

from workers.cli.errors import clear_errors, errors
from workers.cli.options import Device, Json, Model

if TYPE_CHECKING:
    from pipeline.bench.recall import Recall
    from pipeline.bench.retrieve import Retrieval
    from pipeline.bench.scores import Measure
    from pipeline.bench.talk import TalkResult

app = typer.Typer(help="Measure the bare model, prompting and the memory side by side.", no_args_is_help=True)
console = Console(highlight=False)
LINE_S = 30.0  # between two lines that tell how far it is, where no bar can be drawn

# How the table calls the measures, in its order.
NAMES = {
    "efficacy": "recalled, prompt",
    "paraphrase": "recalled, first paraphrase",
    "question": "recalled, question",
    "reversed_prompt": "told reversed, prompt",
    "reversed_paraphrase": "told reversed, paraphrase",
    "reversed_question": "told reversed, question",
    "update": "updated: newest beats both",
    "neighbours_true": "neighbours: true answer wins",
    "neighbour_retention": "  … of the bare model's",
    "neighbours_gate_open": "neighbours: a gate opens",
    "retrieved_prompt": "found first, prompt",
    "retrieved_paraphrase": "found first, paraphrase",
    "retrieved_question": "found first, question",
    "said_prompt": "said, prompt",
    "said_paraphrase": "said, paraphrase",
    "said_question": "said, question",
    "said_reversed_prompt": "said, told reversed, prompt",
    "said_reversed_paraphrase": "said, told reversed, paraphr.",
    "said_reversed_question": "said, told reversed, question",
    "repeated_4grams": "repeated 4-grams",
    "untouched": "elsewhere: same text",
    "perplexity_drift": "elsewhere: perplexity change",
    "skipped_known": "loss gate skips known facts",
    "skipped_new": "loss gate skips new facts",
    "f1": "F1, both",
    "f1_several_facts": "F1, several facts (1)",
    "f1_one_fact": "F1, one fact (4)",
}


@app.command()
def recall(
    facts: Annotated[Path, typer.Option(help="JSON Lines: facts with ways of asking for them.")],
    limit: Annotated[int, typer.Option(min=1, help="How many facts are asked.")] = 1000,
    said: Annotated[int, typer.Option(min=1, help="Of how many of them texts are generated.")] = 200,
    prompted: Annotated[int, typer.Option(min=1, help="Of how many of them prompting is measured.")] = 200,
    extra: Annotated[int, typer.Option(min=0, help="Invented facts to learn beside them.")] = 0,
    model: Model = "default",
    device: Device = "auto",
    as_json: Json = False,
    plot: Annotated[Path | None, typer.Option(help="A .png of the main measures by size of memory.")] = None,
) -> None:
    """Learn facts that no model knows, ask for them, and see what else has changed.

    A line has text, target, target_true, prompt, paraphrases, question, update {text, target}, and, where there are
    any, category, neighbours and reversed_text. Measures are shares; learning is never refused by the loss gate, which
    is measured by itself. Prompting puts the same retriever's best fact before the prompt.
    """
    with clear_errors():
        if plot:
            from workers.bench.plot import draw, need

            need()
        from pipeline.bench.asking import Bench, Limits
        from pipeline.bench.files import read_facts
        from pipeline.bench.recall import measure

        rows = read_facts(facts)
        with _bar() as progress, tempfile.TemporaryDirectory(prefix="factstream-") as folder:
            from pipeline import MemoryLM

            lm = MemoryLM.load(model, device)
            bench = Bench(lm, Limits(limit, said, prompted), time.perf_counter, progress, progress.tell)
            result = measure(bench, rows, extra, Path(folder), _resident, plot is not None)
        if as_json:
            print(orjson.dumps(asdict(result)).decode())
        else:
            _show(result)
        if plot:
            draw(result.curve, plot)


@app.command()
def talk(
    talk: Annotated[Path, typer.Option(help="JSON Lines: conversations, their facts and questions.")],
    limit: Annotated[int | None, typer.Option(min=1, help="Questions a conversation.")] = None,
    model: Model = "default",
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Learn the facts of conversations, each in a namespace of its own, and ask about them.

    A line has conversation, facts {text, evidence} and questions {question, answer, evidence, category}. Evidence is
    looked for in categories 1 to 4, where a fact rests on some of it; answers are compared in categories 1 and 4.
    """
    with clear_errors():
        from pipeline.bench.asking import Bench, Limits
        from pipeline.bench.files import read_talks
        from pipeline.bench.talk import measure

        talks = read_talks(talk)
        with _bar() as progress:
            from pipeline import MemoryLM

            bench = Bench(MemoryLM.load(model, device), Limits(), time.perf_counter, progress)
            result = measure(bench, talks, limit)
        if as_json:
            print(orjson.dumps(asdict(result)).decode())
        else:
            _show_talk(result)


@app.command()
def write(
    memories: Annotated[
        int, typer.Option(min=1000, help="In the large namespace; 100000 is its room.")
    ] = 100_000,
    as_json: Json = False,
) -> None:
    """Facts decided a second by the writer in a namespace of so many memories, and in one of 1,000.

    Checked, decided, appended to a history and told, all but the broker; on made-up encodings, without a model.
    """
    from workers.bench.write import measure

    with clear_errors(), _bar() as progress, tempfile.TemporaryDirectory(prefix="factstream-") as folder:
        _figures(measure(Path(folder), memories, 1, progress), as_json)


@app.command()
def query(
    rows: Annotated[
        int, typer.Option(min=1000, help="Of the history; 10000000 take a quarter of an hour.")
    ] = 1_000_000,
    flush: Annotated[int, typer.Option(min=1, help="Rows of a file as it is written.")] = 1_000,
    as_json: Json = False,
) -> None:
    """The README's analyses over a history that was written in small files and compacted meanwhile.

    Beside each stands how long DuckDB takes to read the columns that it rests on from one flat Parquet file.
    """
    from pipeline.bench.query import measure

    with clear_errors(), _bar() as progress, tempfile.TemporaryDirectory(prefix="factstream-") as folder:
        _figures(measure(Path(folder), rows, flush, 1, progress), as_json)


@app.command()
def replica(
    memories: Annotated[int, typer.Option(min=100, help="To take over.")] = 100_000,
    as_json: Json = False,
) -> None:
    """How fast a generator takes over so many memories, beside reading their bytes from the same embedded broker."""
    from workers.bench.replica import measure

    with clear_errors(), _bar() as progress, tempfile.TemporaryDirectory(prefix="factstream-") as folder:
        _figures(measure(Path(folder), memories, 1, progress), as_json)


@app.command()
def retrieve(
    memories: Annotated[int, typer.Option(min=1000, help="How many memories are searched.")] = 100_000,
    model: Model = "default",
    device: Device = "auto",
    as_json: Json = False,
    plot: Annotated[Path | None, typer.Option(help="A .png of a prompt's cost by size of memory.")] = None,
) -> None:
    """Find the best three of many memories, beside scoring every one of them: speed, recall, size.

    Some invented facts are encoded; the bank is made of them and of variants in which names are exchanged, for the model
    alone would take an hour. Prompts are beginnings of facts, paraphrases and questions; encoding them is not counted.
    """
    with clear_errors():
        if plot:
            from workers.bench.plot import draw_costs, need

            need()
        from pipeline.bench.retrieve import measure
        from pipeline.ingest.encoder import Encoder

        with _bar() as progress:
            encoder = Encoder.load(model, device)
            result = measure(encoder, memories, time.perf_counter, _resident, progress)
        if as_json:
            print(orjson.dumps(asdict(result)).decode())
        else:
            _show_retrieval(result)
        if plot:
            draw_costs(result.curve, plot)


def _show_retrieval(result: "Retrieval") -> None:
    table = Table("measure", "seen", "limit", "")
    for m in result.measures:
        sign = "at least" if m.at_least else "at most"
        table.add_row(
            m.name,
            f"{m.value:,.3g}" if m.value < 100 else f"{m.value:,.0f}",
            f"{sign} {m.limit:,g}",
            "" if m.kept else "missed",
        )
    console.print(table)
    for at in result.curve:
        console.print(f"{at.memories:,} memories: {at.median_ms:.1f} ms a prompt, p99 {at.p99_ms:.1f} ms")
    console.print(
        f"{result.model}: {result.memories:,} memories of {result.words:.1f} words, {result.encoded:,} of them encoded; "
        f"{result.prompts} prompts; exhaustive {result.exhaustive_ms:,.0f} ms a prompt; "
        f"the first prompt of all {result.first_ms:.0f} ms; measured in {result.seconds:.0f} s",
        markup=False,
    )


@app.command()
def encode(
    facts: Annotated[int, typer.Option(min=64, help="Invented ones.")] = 512,
    rounds: Annotated[int, typer.Option(min=1, help="Of the comparison; medians are told.")] = 3,
    model: Model = "default",
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Facts encoded a second, with all that a memory keeps, beside the bare model's forward pass of the same texts."""
    with clear_errors(), _bar() as progress:
        from pipeline.bench.encode import measure
        from pipeline.ingest.encoder import Encoder

        encoder = Encoder.load(model, device)
        _figures(measure(encoder, time.perf_counter, time.process_time, progress, facts, rounds), as_json)


@app.command()
def generate(
    tokens: Annotated[int, typer.Option(min=2, help="Of each answer.")] = 64,
    rounds: Annotated[int, typer.Option(min=1, help="Of each comparison; medians are told.")] = 5,
    model: Model = "default",
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Tokens a second with a memory, beside transformers' own generate of the bare model; mixed requests, beside one by one."""
    with clear_errors(), _bar() as progress:
        from pipeline import MemoryLM
        from pipeline.bench.generate import Bench, measure

        lm = MemoryLM.load(model, device)
        bench = Bench(lm, time.perf_counter, time.process_time, progress, tokens, rounds)
        _figures(measure(bench, (1, 8)), as_json)


@app.command()
def stream(
    facts: Annotated[int, typer.Option(min=16, help="Of each round.")] = 500,
    rounds: Annotated[int, typer.Option(min=1, help="Of the comparison; medians are told.")] = 3,
    model: Model = "default",
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Facts decided a second by a whole stack, beside the encoder alone; and how long the stack takes to be ready.

    It starts a stack of its own, with an embedded broker on a free port, in a temporary folder.
    """
    with clear_errors(), _bar() as progress, tempfile.TemporaryDirectory(prefix="factstream-") as folder:
        from workers.bench.stream import measure

        _figures(measure(Path(folder), model, device, facts, rounds, progress), as_json)


def _figures(result: Any, as_json: bool) -> None:
    """A dataclass of figures, as JSON or one to a line."""
    if as_json:
        print(orjson.dumps(asdict(result)).decode())
        return

    def lines(prefix: str, value: Any) -> Iterator[tuple[str, str]]:
        if isinstance(value, dict | list):
            for name, part in value.items() if isinstance(value, dict) else enumerate(value, 1):
                yield from lines(f"{prefix} {name}".strip(), part)
        else:
            yield prefix, f"{value:,.2f}" if isinstance(value, float) else str(value)

    for name, value in lines("", asdict(result)):
        console.print(f"{name:32} {value}", markup=False)


def _show_talk(result: "TalkResult") -> None:
    table = Table("evidence among the first", *result.evidence)
    rows = {"categories 1 to 4": result.evidence}
    rows |= {f"category {c}": found for c, found in result.evidence_by_category.items()}
    for name, found in rows.items():
        table.add_row(name, *("" if value is None else f"{100 * value:.1f}%" for value in found.values()))
    console.print(table)
    _table(result.measures)
    console.print(
        f"{result.model}: {result.conversations} conversations, {result.memories} memories of {result.facts} facts, "
        f"{result.questions} questions with evidence; measured in {result.seconds:.0f} s",
        markup=False,
    )


def _show(result: "Recall") -> None:
    _table(result.measures)
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


def _table(measures: Sequence["Measure"]) -> None:
    table = Table("measure", "asked", "bare", "prompting", "memory", "best prompting (asked)")
    order = list(NAMES)
    for m in sorted(measures, key=lambda m: order.index(m.name)):
        by = f"{m.prompting_by} ({m.prompting_asked})" if m.prompting_by else ""
        table.add_row(NAMES[m.name], str(m.asked), *_percents(m).values(), by)
    console.print(table)


def _percents(m: "Measure") -> dict[str, str]:
    """By who was asked; empty where it was not."""
    values = {"bare": m.bare, "prompting": m.prompting, "memory": m.memory}
    return {who: "" if value is None else f"{100 * value:.1f}%" for who, value in values.items()}


class _Shown:
    """A bar for each thing that is being measured; where none can be drawn, a line now and then."""

    def __init__(self, bar: Progress) -> None:
        self._bar = bar
        self._tasks: dict[str, TaskID] = {}
        self._told = time.monotonic()

    def __call__(self, what: str, more: int, total: int) -> None:
        if what not in self._tasks:
            self._tasks[what] = self._bar.add_task(what, total=total)
        self._bar.advance(self._tasks[what], more)
        if self._bar.disable and time.monotonic() - self._told > LINE_S:
            self._told = time.monotonic()
            done = self._bar.tasks[self._tasks[what]].completed
            errors.print(f"{what}: {done:,.0f} of {total:,}", markup=False, highlight=False)

    def tell(self, m: "Measure") -> None:
        """A measure as soon as it is known, above the bars."""
        told = ", ".join(f"{who} {value}" for who, value in _percents(m).items() if value)
        errors.print(f"{m.name}: {told or 'nothing asked'}", markup=False, highlight=False)


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
