"""How far this machine's last publications are decided, so that `ask` after `publish --wait` reads its own writes.

One small file in the data folder. It knows positions by namespace, as a request's `after` takes them, and no cluster:
whoever asks leaves out what is of another topic id than the cluster's.
"""

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import orjson

from pipeline.files import atomic_file

FILE = "published.json"
NAMESPACES = 1_000
"""How many are kept, the last published ones."""
MAX_BYTES = 4 * 1024 * 1024

Positions = dict[str, dict[str, int]]


def remember(data: Path, after: Mapping[str, Mapping[str, int]]) -> None:
    """Keeps the positions of `after`, in the place of those that the namespaces had on other topics.

    A folder that cannot be written keeps nothing: what was published is published all the same.
    """
    kept = recall(data)
    for namespace, logs in after.items():
        old = kept.pop(namespace, {})
        kept[namespace] = {log: max(offset, old.get(log, -1)) for log, offset in logs.items()}
    kept = dict(list(kept.items())[-NAMESPACES:])
    with contextlib.suppress(OSError):
        with atomic_file(data / FILE, durable=False) as file:
            file.write(orjson.dumps(kept))


def recall(data: Path, namespaces: Sequence[str] | None = None) -> Positions:
    """The positions of these namespaces, or of all; none of a file that is missing or was damaged."""
    found: Positions = {}
    with contextlib.suppress(OSError, orjson.JSONDecodeError):
        with (data / FILE).open("rb") as file:
            kept = orjson.loads(file.read(MAX_BYTES))
        for namespace, logs in kept.items() if isinstance(kept, dict) else ():
            if (namespaces is None or namespace in namespaces) and isinstance(logs, dict):
                found[namespace] = {log: offset for log, offset in logs.items() if type(offset) is int}
    return found
