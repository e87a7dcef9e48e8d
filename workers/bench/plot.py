"""Plots of measures and costs by the number of memories. They need matplotlib, an extra."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from pipeline.bench.recall import Point
    from pipeline.bench.retrieve import At

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
    """matplotlib is not installed."""


def require() -> None:
    """Raises NoPlot if matplotlib is missing: call it before hours of measuring."""
    if find_spec("matplotlib") is None:
        raise NoPlot("--plot needs matplotlib: pip install 'factstream[plot]'")


def draw(curve: Sequence["Point"], file: Path) -> None:
    """The main measures by size of memory."""
    with _axes(file, [point.memories for point in curve]) as axes:
        for name, label in LABELS.items():
            known = [(p.memories, 100 * s) for p in curve if (s := p.shares.get(name)) is not None]
            if known:
                style = "-o" if name in ("efficacy", "paraphrase", "question") else "--o"
                axes.plot(*zip(*known, strict=True), style, label=label, markersize=4)
        axes.set_ylim(0, 105)
        axes.set_ylabel("% of facts")


def draw_costs(curve: Sequence["At"], file: Path) -> None:
    """A prompt's cost by size of memory, beside a cost that grows in proportion to it."""
    sizes = [at.memories for at in curve]
    with _axes(file, sizes) as axes:
        axes.plot(sizes, [at.p99_ms for at in curve], "--o", label="a prompt, p99", markersize=4)
        axes.plot(sizes, [at.median_ms for at in curve], "-o", label="a prompt, median", markersize=4)
        axes.plot(sizes, [curve[0].median_ms * size / sizes[0] for size in sizes], ":", label="in proportion")
        axes.set_yscale("log")
        axes.set_ylabel("ms")


@contextmanager
def _axes(file: Path, sizes: Sequence[int]) -> Iterator["Axes"]:
    """Axes over the number of memories, to draw on; the figure is then written to the file."""
    require()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    axes.set_xscale("log")
    yield axes
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes], minor=False)
    axes.set_xlabel("memories")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(file, dpi=150, format="png")
