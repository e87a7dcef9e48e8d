"""Draws how the main measures change with the number of memories. Needs matplotlib, which is an extra."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.bench_recall import Point

LABELS = {
    "efficacy": "recalled, prompt",
    "paraphrase": "recalled, paraphrase",
    "question": "recalled, question",
    "retrieved_prompt": "found first, prompt",
    "retrieved_paraphrase": "found first, paraphrase",
    "retrieved_question": "found first, question",
    "neighbour_retention": "neighbours kept",
}


class NoPlot(ValueError):
    """What draws is not installed."""


def need() -> None:
    """Raises NoPlot, before anything is measured, where there is nothing to draw with."""
    if find_spec("matplotlib") is None:
        raise NoPlot("--plot needs matplotlib: pip install 'factstream[plot]'")


def draw(curve: Sequence["Point"], file: Path) -> None:
    need()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    sizes = [point.memories for point in curve]
    for name, label in LABELS.items():
        shares = [point.shares.get(name) for point in curve]
        known = [(size, 100 * s) for size, s in zip(sizes, shares, strict=True) if s is not None]
        if known:
            style = "-o" if name in ("efficacy", "paraphrase", "question") else "--o"
            axes.plot(*zip(*known, strict=True), style, label=label, markersize=4)
    axes.set_xscale("log")
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes], minor=False)
    axes.set_ylim(0, 105)
    axes.set_xlabel("memories")
    axes.set_ylabel("% of those asked")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(file, dpi=150, format="png")
