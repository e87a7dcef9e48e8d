"""Output of a query's result: a table for a person, CSV or JSON for a program."""

import csv
import sys
from collections.abc import Mapping
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console
from rich.table import Table

from workers.cli.errors import report_errors, stderr

MAX_ROWS = 1000
"""Most rows of a table for a person."""


class Format(StrEnum):
    table = "table"
    csv = "csv"
    json = "json"


def show_query(data: Path, sql: str, format: Format, parameters: Mapping[str, object] | None = None) -> int:
    """Runs a query over the data folder in a process of its own, prints its rows, and returns their number."""
    from pipeline.query.run import run_confined

    with report_errors():
        table = run_confined(data, sql, parameters=parameters)
        show(table, format)
    return int(table.num_rows)


def show(table: Any, format: Format) -> None:
    """Prints an Arrow table batch by batch: Python objects take many times the memory."""
    rows = (row for batch in table.to_batches(max_chunksize=1000) for row in batch.to_pylist())
    if format is Format.json:
        objects = (
            orjson.dumps(row, default=lambda v: v.hex() if isinstance(v, bytes) else str(v)) for row in rows
        )
        print(
            "[" + next(objects, b"").decode(), *(f",{text.decode()}" for text in objects), sep="", end="]\n"
        )
    elif format is Format.csv:
        writer = csv.writer(sys.stdout)
        writer.writerow(table.column_names)
        writer.writerows(list(row.values()) for row in rows)
    else:
        Console().print(rich_table(table.column_names, islice(rows, MAX_ROWS)), markup=False)
        if (more := table.num_rows - MAX_ROWS) > 0:
            stderr.print(f"and {more} more rows: --format csv prints all", markup=False)


def rich_table(columns: Any, rows: Any) -> Table:
    """Rows (dictionaries) as a table for the terminal."""
    table = Table(*columns)
    for row in rows:
        table.add_row(*("" if value is None else str(value) for value in row.values()))
    return table
