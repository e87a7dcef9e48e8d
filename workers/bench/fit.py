"""Output of a fit: the file, and what the weights give on domains left out."""

from dataclasses import asdict
from pathlib import Path

import orjson
from rich.table import Table

from pipeline.fit.fit import Fit, LeftOut
from workers.bench.report import console


def show(fitted: Fit, file: Path, as_json: bool) -> None:
    """Prints the fit, as a table or as JSON."""
    reports = {"with states": fitted.with_states, "words and losses only": fitted.without_states}
    if as_json:
        print(orjson.dumps({"file": str(file), **asdict(fitted) | {"content": len(fitted.content)}}).decode())
        return
    table = Table("on domains left out", *reports)
    for name, values in _rows(*reports.values()):
        table.add_row(name, *(f"{value:.3f}" if value is not None else "" for value in values))
    console.print(table)
    console.print(f"{fitted.with_states.asks:,} asks; {file}", highlight=False)


def _rows(*reports: LeftOut) -> list[tuple[str, list[float | None]]]:
    rows = [
        (name.replace("_", " "), [getattr(report, name) for report in reports])
        for name in ("in_candidates", "first", "least", "spoken_right", "spoken_wrong")
    ]
    whys = reports[0].silent
    return rows + [(f"silent: {why}", [report.silent.get(why) for report in reports]) for why in whys]
