"""Output of a fit: the file, and what the weights give on domains left out."""

from dataclasses import asdict
from pathlib import Path

import orjson
from rich.table import Table

from pipeline.fit.fit import Fit, LeftOut
from workers.bench.report import console


def show(fitted: Fit, file: Path, as_json: bool) -> None:
    """Prints the fit, as a table or as JSON."""
    report = fitted.left_out
    if as_json:
        print(
            orjson.dumps(
                {
                    "file": str(file),
                    "left_out": asdict(report),
                    "given_whole": fitted.given_whole,
                    "pairs": fitted.pairs._asdict(),
                }
            ).decode()
        )
        return
    table = Table("on domains left out", "")
    for name, value in _rows(report):
        table.add_row(name, f"{value:.3f}" if value is not None else "")
    table.add_row("answered whole, with the right facts", f"{fitted.given_whole:.3f}")
    for name, value in (("needed", fitted.pairs.found), ("not needed", fitted.pairs.wrong)):
        table.add_row(f"a second fact is read where it is {name}", "" if value is None else f"{value:.3f}")
    console.print(table)
    console.print(f"{report.asks:,} asks; {file}", highlight=False)


def _rows(report: LeftOut) -> list[tuple[str, float | None]]:
    names = ("in_candidates", "first", "spoken_right", "spoken_wrong")
    rows = [(name.replace("_", " "), getattr(report, name)) for name in names]
    return rows + [(f"silent: {why}", value) for why, value in report.silent.items()]
