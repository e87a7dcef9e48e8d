"""Compaction: small files of a history merged into large ones, while writers append and readers read.

Knows which files to merge and which to remove, and when; how it is done safely is the history's business. A step is
bounded. Size-tiered, as in log-structured merge trees (O'Neil et al. 1996): of each size there are fewer than `FAN` files
at any time, but for those that are large enough. Knows no rows.
"""

import math
import os
from pathlib import Path

from pipeline.history import log as history

FAN = 32
"""Files of one size that are merged into one."""
LARGE_BYTES = 64 * 1024 * 1024
"""What is as large is merged no more; about twice that is the most that one step reads."""
GROUP_BYTES = 32 * 1024 * 1024
"""Of a merged file's row groups, before compression."""
KEEP_S = 60.0
"""How long a merged file stays: whoever listed it before reads it to its end (a query has 30 s)."""


def step(folder: Path, partition: int, now: float) -> bool:
    """One merge, if one is due, and what was merged long ago removed; whether there may be more to merge.

    `now`: seconds since 1970. May be killed at any point: until a merged file has its name nothing counts it, and from then
    on nothing counts what it has. Raises `HistoryError` for a damaged file; `Unwritable` when the disk refuses or another
    process is at it.
    """
    # The last batch stays by itself: its owner is not done with it.
    due = _due(history.parts(folder, partition)[:-1])
    if not due and not history.merged_away(folder, partition):
        return False
    with history.locked(history.folder_of(folder, partition), patience_s=0.0):
        sweep(folder, partition, now - KEEP_S)
        if due := _due(history.parts(folder, partition)[:-1]):
            history.merge(due, GROUP_BYTES)
    return bool(due)


def sweep(folder: Path, partition: int, until: float = math.inf) -> None:
    """Removes what was merged before `until`, and what a merge left half written. Under `locked`."""
    for path, into in history.merged_away(folder, partition):
        if into.stat().st_mtime <= until:
            path.unlink(missing_ok=True)
    inside = history.folder_of(folder, partition)
    for name in os.listdir(inside):
        if history.MERGING.fullmatch(name):
            (inside / name).unlink(missing_ok=True)


def _due(parts: list[history.Part]) -> list[history.Part]:
    """The oldest files of the smallest size of which there are enough, in a row."""
    best: list[history.Part] = []
    run: list[history.Part] = []
    weight = 0
    for part in parts:
        size = part.path.stat().st_size
        if size >= LARGE_BYTES or (run and _size(run[0]) != _size(part)):
            run, weight = [], 0
        if size < LARGE_BYTES:
            run.append(part)
            weight += size
            if len(run) == FAN or (weight >= LARGE_BYTES and len(run) > 1):
                if not best or _size(run[0]) < _size(best[0]):
                    best = run
                run, weight = [], 0
    return best


def _size(part: history.Part) -> int:
    """How often its rows were merged, if all is as it should be."""
    count, times = part.last - part.first + 1, 0
    while count >= FAN:
        count, times = count // FAN, times + 1
    return times
