"""The states of the stack's workers in a file of the data folder, for `factstream doctor`."""

import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson

from pipeline.files import atomic_file
from workers.runtime.stack.child import Child

FILE = "workers.json"
State = dict[str, Any]


def write(data: Path, children: Sequence[Child], now: float) -> None:
    """Write the state of each worker. `now` is on the monotonic clock. What the disk refuses is left out."""
    with suppress(OSError), atomic_file(data / FILE, durable=False) as file:
        file.write(orjson.dumps({child.name: _state(child, now) for child in children}))


def read(data: Path) -> dict[str, State]:
    """The state of each worker, as last written; nothing where no stack runs. Raises OSError where it cannot be read."""
    try:
        found = orjson.loads((data / FILE).read_bytes())
    except (FileNotFoundError, orjson.JSONDecodeError):
        return {}
    return found if isinstance(found, dict) else {}


def remove(data: Path) -> None:
    with suppress(OSError):
        (data / FILE).unlink(missing_ok=True)


def _state(child: Child, now: float) -> State:
    ready = child.ready is not None and child.restart_at is None
    state: State = {"ready": ready, "deaths": child.deaths.count}
    if child.deaths.count:
        state["end"] = child.end
    if child.restart_at is not None:
        state["restarts_at"] = round(time.time() + child.restart_at - now, 1)
    return state
