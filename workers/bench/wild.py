"""Tables of `bench wild` and `bench decide`: shares of right answers, silence, and the decisions."""

from collections.abc import Mapping
from dataclasses import astuple
from typing import TYPE_CHECKING

from rich.table import Table

from workers.bench.report import console

if TYPE_CHECKING:
    from pipeline.bench.wild.answers import Shares
    from pipeline.bench.wild.decisions import DecisionResult
    from pipeline.bench.wild.measure import Kept, WildResult
    from pipeline.bench.wild.speed import Speed
    from pipeline.bench.wild.verdicts import Confusion

COLUMNS = (
    "asks", "bare", "prompted", "prompted, right fact", "memory", "right first", "among three", "spoke", "spoke, right",
)  # fmt: skip
"""The titles of the fields of Shares, in their order."""


def show_wild(result: "WildResult") -> None:
    for title, groups in (
        ("form", result.by_form), ("kind", result.by_kind), ("domain", result.by_domain),
    ):  # fmt: skip
        console.print(_shares(title, {**groups, "all": result.all}))
    console.print(_silence({**result.silent_by_why, "all": result.silent}))
    console.print(_decisions(result.decided))
    updates = result.updates
    said = ", ".join(f"{way.replace('_', ' ')} {_percent(value)}" for way, value in updates.said.items())
    console.print(
        f"{updates.asked} asks after an update: the new value said: {said}; the old fact read: "
        f"{_percent(updates.old_read)}"
    )
    _show_speed(result.speed)
    console.print(
        f"{result.model}: {result.domains} domains, {result.memories} memories of {result.facts} facts; "
        f"measured in {result.seconds:.0f} s",
        markup=False,
    )


def show_decisions(result: "DecisionResult") -> None:
    for title, decided in (("without keys", result.without_keys), ("with keys", result.with_keys)):
        console.print(
            f"\n{title}: {decided.right} of {result.facts} right, {decided.wrong_replacements} wrong replacements"
        )
        console.print(_decisions(decided.matrix))
    console.print(f"{result.domains} domains; decided in {result.seconds:.1f} s")


def _shares(title: str, groups: Mapping[str, "Shares"]) -> Table:
    table = Table(title, *COLUMNS)
    for name, shares in groups.items():
        asked, *values = astuple(shares)
        table.add_row(name, str(asked), *map(_percent, values))
    return table


def _silence(groups: Mapping[str, "Kept"]) -> Table:
    table = Table("no fact answers", "prompts", "the bare model's tokens", "spoke")
    for why, kept in groups.items():
        table.add_row(why, str(kept.asked), _percent(kept.same), _percent(kept.spoke))
    return table


def _decisions(confusion: "Confusion") -> Table:
    """Facts by link and outcome, and in brackets those whose decision acted on the linked fact's memory."""
    outcomes = list(confusion.facts["new"])
    table = Table("fact (on the linked fact)", "facts", *outcomes)
    for link, counts in confusion.facts.items():
        on_linked = confusion.on_linked.get(link, {})
        cells = [
            f"{counts[outcome]} ({on_linked[outcome]})" if on_linked.get(outcome) else str(counts[outcome])
            for outcome in outcomes
        ]
        table.add_row(link.replace("_", " "), str(sum(counts.values())), *cells)
    return table


def _show_speed(speed: "Speed") -> None:
    if not speed.prompts:
        return
    pairs = (
        ("with memory", speed.memory, speed.memory_decoding), ("bare", speed.bare, speed.bare_decoding),
    )  # fmt: skip
    rates = "; ".join(f"{name} {whole or 0:.0f}, {after or 0:.0f}" for name, whole, after in pairs)
    console.print(
        f"{speed.prompts} prompts one by one, {_percent(speed.open_gates)} with an open gate: tokens per second of whole "
        f"answers, and after the first token: {rates}; {speed.retrieve_ms:.1f} ms to retrieve, "
        f"{speed.retrieve_again_ms:.1f} ms again; {speed.first_ms:.1f} ms to the first token, by prompting "
        f"{speed.prompted_first_ms:.1f} ms"
    )


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}%"
