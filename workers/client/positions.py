"""The positions that this machine's publications reached, so that `ask` reads its own writes.

One small file in the data folder keeps the positions by namespace, in the form of a request's `after`. It
does not record their cluster: a caller drops positions whose topic id is not on its cluster.
"""

import contextlib
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import orjson

from pipeline.files import atomic_file

FILE = "published.json"
NAMESPACES = 1_000
"""Most namespaces that are kept: those that were published to last."""
MAX_BYTES = 4 * 1024 * 1024

_changing = threading.Lock()
"""Lock of the file, which is read, changed and written: a server publishes on several threads."""

Positions = dict[str, dict[str, int]]
"""Last offset that was decided, by namespace and "topic id/partition"."""


def remember(data: Path, after: Mapping[str, Mapping[str, int]]) -> None:
    """Keeps the positions of `after`; positions of these namespaces on other topics are dropped.

    If the folder cannot be written, nothing is kept, and no error is raised: the facts are published.
    """
    with _changing, contextlib.suppress(OSError):
        kept = recall(data)
        for namespace, logs in after.items():
            old = kept.pop(namespace, {})
            kept[namespace] = {log: max(offset, old.get(log, -1)) for log, offset in logs.items()}
        kept = dict(list(kept.items())[-NAMESPACES:])
        with atomic_file(data / FILE, durable=False) as file:
            file.write(orjson.dumps(kept))


def recall(data: Path, namespaces: Sequence[str] | None = None) -> Positions:
    """The positions of these namespaces, or of all; none if the file is missing or damaged."""
    found: Positions = {}
    with contextlib.suppress(OSError, orjson.JSONDecodeError):
        with (data / FILE).open("rb") as file:
            kept = orjson.loads(file.read(MAX_BYTES))
        for namespace, logs in kept.items() if isinstance(kept, dict) else ():
            if (namespaces is None or namespace in namespaces) and isinstance(logs, dict):
                found[namespace] = {log: offset for log, offset in logs.items() if type(offset) is int}
    return found
