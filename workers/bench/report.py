"""Output of measurements: tables or JSON for the results, and progress bars meanwhile."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import orjson
from rich.console import Console
from rich.progress import Progress, TaskID
from rich.table import Table

if TYPE_CHECKING:
    from pipeline.bench.recall import Recall
    from pipeline.bench.retrieve import Retrieval
    from pipeline.bench.scores import Measure
    from pipeline.bench.talk.measure import TalkResult

LINE_EVERY_S = 30.0
"""Seconds between two lines of progress without a terminal."""

console = Console(highlight=False)
stderr = Console(stderr=True)

TITLES = {
    "efficacy": "recalled, prompt",
    "paraphrase": "recalled, first paraphrase",
    "question": "recalled, question",
    "reversed_prompt": "reversed facts, prompt",
    "reversed_paraphrase": "reversed facts, paraphrase",
    "reversed_question": "reversed facts, question",
    "update": "updated: newest beats both",
    "neighbours_true": "neighbours: true answer wins",
    "neighbour_retention": "  … relative to the bare model",
    "neighbours_gate_open": "neighbours: a gate opens",
    "retrieved_prompt": "retrieved first, prompt",
    "retrieved_paraphrase": "retrieved first, paraphrase",
    "retrieved_question": "retrieved first, question",
    "said_prompt": "generated, prompt",
    "said_paraphrase": "generated, paraphrase",
    "said_question": "generated, question",
    "said_reversed_prompt": "generated, reversed, prompt",
    "said_reversed_paraphrase": "generated, reversed, paraphrase",
    "said_reversed_question": "generated, reversed, question",
    "repeated_4grams": "repeated 4-grams",
    "untouched": "everyday prompts: same text",
    "perplexity_drift": "prose: perplexity change",
    "skipped_known": "loss gate skips known facts",
    "skipped_new": "loss gate skips new facts",
    "f1": "F1, both",
    "f1_several_facts": "F1, several facts (1)",
    "f1_one_fact": "F1, one fact (4)",
}
"""The measures' titles in the table, in its order."""


def show(result: Any, as_json: bool, as_text: Callable[[Any], object] | None = None) -> None:
    """Prints a dataclass of figures: as JSON, with `as_text`, or one figure a line."""
    (show_json if as_json else as_text or show_figures)(result)


def show_json(result: Any) -> None:
    print(orjson.dumps(asdict(result)).decode())


def show_figures(result: Any) -> None:
    """The figures of a dataclass, one a line."""

    def lines(prefix: str, value: Any) -> Iterator[tuple[str, str]]:
        if isinstance(value, dict | list):
            for name, item in value.items() if isinstance(value, dict) else enumerate(value, 1):
                yield from lines(f"{prefix} {name}".strip(), item)
        else:
            yield prefix, f"{value:,.2f}" if isinstance(value, float) else str(value)

    for name, value in lines("", asdict(result)):
        console.print(f"{name:32} {value}", markup=False)


def show_recall(result: "Recall") -> None:
    _show_measures(result.measures)
    cost = result.cost
    facts = f"{result.facts} facts and {result.extra} invented ones"
    console.print(f"{result.model}: {facts}: {_counts(result.outcomes)}", markup=False)
    console.print(f"updates: {_counts(result.updates)}")
    console.print(
        f"{cost.learn_ms:.1f} ms per fact to learn; {cost.retrieve_ms:.2f} ms per prompt to retrieve, p99 "
        f"{cost.retrieve_p99_ms:.2f} ms; {cost.stored_bytes:.0f} bytes per fact on disk, {cost.resident_bytes:.0f} in memory"
    )
    console.print(f"measured in {result.seconds:.0f} s")


def show_talk(result: "TalkResult") -> None:
    if turns := result.turns:
        console.print(
            f"{turns.turns} turns, {turns.sentences} sentences: {turns.stated} state something, {turns.kept} are worth a memory"
        )
        if turns.marked:
            console.print(
                f"of {turns.marked} that are marked {turns.marked_stated} are found and {turns.marked_kept} kept; of "
                f"{turns.stated - turns.marked_stated} others {turns.kept - turns.marked_kept}; least worth {turns.fitted:.2f} nats"
            )
    table = Table("evidence among the first", *result.evidence)
    rows = {"categories 1 to 4": result.evidence}
    rows |= {f"category {c}": shares for c, shares in result.evidence_by_category.items()}
    for name, shares in rows.items():
        table.add_row(name, *("" if value is None else f"{100 * value:.1f}%" for value in shares.values()))
    console.print(table)
    _show_measures(result.measures)
    console.print(
        f"{result.model}: {result.conversations} conversations, {result.memories} memories of {result.facts} facts, "
        f"{result.questions} questions with evidence; measured in {result.seconds:.0f} s",
        markup=False,
    )


def show_retrieval(result: "Retrieval") -> None:
    table = Table("measure", "measured", "limit", "")
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
        console.print(f"{at.memories:,} memories: {at.median_ms:.1f} ms per prompt, p99 {at.p99_ms:.1f} ms")
    console.print(
        f"{result.model}: {result.memories:,} memories of {result.words:.1f} words, {result.encoded:,} of them encoded; "
        f"{result.prompts} prompts; exhaustive {result.exhaustive_ms:,.0f} ms per prompt; "
        f"the first prompt {result.first_ms:.0f} ms; measured in {result.seconds:.0f} s",
        markup=False,
    )


def _show_measures(measures: Sequence["Measure"]) -> None:
    table = Table("measure", "prompts", "bare", "prompting", "memory", "best prompting (prompts)")
    order = list(TITLES)
    for m in sorted(measures, key=lambda m: order.index(m.name)):
        by = f"{m.prompting_by} ({m.prompting_asked})" if m.prompting_by else ""
        table.add_row(TITLES[m.name], str(m.asked), *_percents(m).values(), by)
    console.print(table)


def _percents(m: "Measure") -> dict[str, str]:
    """The figures as text; empty where one does not apply."""
    values = {"bare": m.bare, "prompting": m.prompting, "memory": m.memory}
    return {name: "" if value is None else f"{100 * value:.1f}%" for name, value in values.items()}


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())


@contextmanager
def progress_bars() -> Iterator["ProgressBars"]:
    """Progress on standard error: bars that vanish at the end, or lines now and then without a terminal."""
    with Progress(console=stderr, transient=True, disable=not stderr.is_terminal) as bars:
        yield ProgressBars(bars)


class ProgressBars:
    """A bar for each thing that is being measured. It is a `pipeline.bench.harness.Progress`."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}
        self._last_line = time.monotonic()

    def __call__(self, what: str, more: int, total: int) -> None:
        if what not in self._tasks:
            self._tasks[what] = self._bars.add_task(what, total=total)
        self._bars.advance(self._tasks[what], more)
        if self._bars.disable and time.monotonic() - self._last_line > LINE_EVERY_S:
            self._last_line = time.monotonic()
            done = self._bars.tasks[self._tasks[what]].completed
            stderr.print(f"{what}: {done:,.0f} of {total:,}", markup=False, highlight=False)

    def show(self, m: "Measure") -> None:
        """Prints a measure above the bars, as soon as it is known."""
        figures = ", ".join(f"{name} {value}" for name, value in _percents(m).items() if value)
        stderr.print(f"{m.name}: {figures or 'nothing measured'}", markup=False, highlight=False)
