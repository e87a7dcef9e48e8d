"""Harness of the measurements: timings, calls in turns, medians of ratios, and progress."""

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

clock = time.perf_counter
"""The clock of all measurements, in seconds."""

Progress = Callable[[str, int, int], object]
"""Called with the name of a step, the number of items done since the last call, and their total."""


class Timing(NamedTuple):
    """Seconds of one call. On a shared machine processor time tells more than wall time."""

    wall: float
    cpu: float


def timed(call: Callable[[], object]) -> Timing:
    """The time that the call takes."""
    wall, cpu = clock(), time.process_time()
    call()
    return Timing(clock() - wall, time.process_time() - cpu)


def in_turns(
    rounds: int, *calls: Callable[[int], object], after: Callable[[], object] = lambda: None
) -> list[list[Timing]]:
    """The timings of each call, which gets the number of the round; `after` is called after every round.

    Every round makes each call once, so that other work on the machine slows all of them alike.
    """
    timings: list[list[Timing]] = [[] for _ in calls]
    for number in range(rounds):
        for call, own in zip(calls, timings, strict=True):
            own.append(timed(lambda call=call, number=number: call(number)))  # type: ignore[misc]
        after()
    return timings


def median_timing(timings: Sequence[Timing]) -> Timing:
    return Timing(median(t.wall for t in timings), median(t.cpu for t in timings))


def median_rate(count: int, timings: Sequence[Timing]) -> float:
    """How many of `count` are done per second of wall time."""
    return median(count / t.wall for t in timings)


def median_speedup(ours: Sequence[Timing], theirs: Sequence[Timing]) -> Timing:
    """How many times as fast ours are: the median of the rounds' ratios, of wall and of processor time."""
    pairs = list(zip(ours, theirs, strict=True))
    return Timing(median(b.wall / a.wall for a, b in pairs), median(b.cpu / a.cpu for a, b in pairs))


def percentile(values: Sequence[float], q: float) -> float:
    """The value that a share q of the values does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))]


def resident_bytes() -> int:
    """Bytes of memory that this process holds; 0 where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return 0
