"""Decisions as rows of the history, and back. Knows both forms, and what a row must have; knows no files."""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.memory.record import Cause, Decision
from schemas.history import HISTORY

_CAUSE = [field.name for field in fields(Cause)]
_MADE = ("memory_id", "text", "observed_at", "importance", "loss_delta", "encoder_id")
_PLAIN = [f.name for f in fields(Decision) if f.name not in ("cause", "priors", "surprisals", "vectors")]


def to_table(decisions: Sequence[Decision]) -> pa.Table:
    columns: dict[str, list[Any]] = {name: [getattr(d, name) for d in decisions] for name in _PLAIN}
    columns |= {name: [getattr(d.cause, name) for d in decisions] for name in _CAUSE}
    columns |= {name: [getattr(d, name) for d in decisions] for name in ("priors", "surprisals")}
    columns["vectors"] = [None if d.vectors is None else d.vectors.tobytes() for d in decisions]
    return pa.table(columns, schema=HISTORY)


def from_table(table: pa.Table, erased: bool) -> list[Decision]:
    """`erased`: a memory's text may be missing. Raises ValueError for a row that lacks what its outcome needs."""
    for field in HISTORY:
        if not field.nullable and table.column(field.name).null_count:
            raise ValueError(f"null in {field.name}")
    columns = {name: table.column(name).to_pylist() for name in (*_PLAIN, *_CAUSE, "vectors")}
    lists = {name: table.column(name) for name in ("priors", "surprisals")}
    rows = []
    for i in range(table.num_rows):
        arrays: dict[str, Any] = {
            name: np.array(column[i].values, np.float32) if column[i].is_valid else None
            for name, column in lists.items()
        }
        if (blob := columns["vectors"][i]) is not None:
            if arrays["priors"] is None:
                raise ValueError(f"row {i} has vectors, but no words")
            words = len(arrays["priors"])
            shape = (words, len(blob) // words if words else 0)
            arrays["vectors"] = np.frombuffer(blob, np.uint8).reshape(shape).copy()
        if columns["outcome"][i] in ("learned", "superseded"):
            needed = [columns[name][i] for name in _MADE] + list(arrays.values())
            whole = len(arrays) == 3 and all(value is not None for value in needed)
            if not whole and not (erased and columns["text"][i] is None):
                raise ValueError(f"row {i} makes a memory, and has not all of it")
        cause = Cause(**{name: columns[name][i] for name in _CAUSE})
        rows.append(Decision(cause=cause, **{name: columns[name][i] for name in _PLAIN}, **arrays))
    return rows
