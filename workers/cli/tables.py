"""A query and its result, printed: a table for a person, or CSV or JSON for a machine."""

import csv
import sys
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console
from rich.table import Table

from workers.cli.errors import clear_errors

SHOWN = 1000  # rows of a table for a person


class Format(StrEnum):
    table = "table"
    csv = "csv"
    json = "json"


def show_query(data: Path, sql: str, format: Format) -> None:
    """The rows of a query over the data folder, which is run in a process of its own."""
    from pipeline.query.run import run_confined

    with clear_errors():
        show(run_confined(data, sql), format)


def show(table: Any, format: Format) -> None:
    """Row by row: as Python's objects a large result takes many times its size."""
    rows = (row for batch in table.to_batches(max_chunksize=1000) for row in batch.to_pylist())
    if format is Format.json:
        parts = (
            orjson.dumps(row, default=lambda v: v.hex() if isinstance(v, bytes) else str(v)) for row in rows
        )
        print("[" + next(parts, b"").decode(), *(f",{part.decode()}" for part in parts), sep="", end="]\n")
    elif format is Format.csv:
        writer = csv.writer(sys.stdout)
        writer.writerow(table.column_names)
        writer.writerows(list(row.values()) for row in rows)
    else:
        shown = Table(*table.column_names)
        for row in islice(rows, SHOWN):
            shown.add_row(*("" if value is None else str(value) for value in row.values()))
        Console().print(shown, markup=False)
        if (more := table.num_rows - SHOWN) > 0:
            Console(stderr=True).print(f"and {more} rows more: --format csv prints all", markup=False)
