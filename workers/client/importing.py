"""Import of exported memories: published as facts, in their order, and decided anew.

An import is a publisher like any other. The id of each fact is derived from the exported memory, so a memory is decided once,
however often its file is imported; and how far an import came is kept, so that it goes on there after it was stopped.
"""

import contextlib
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import orjson

from pipeline.files import atomic_file
from schemas import topics
from schemas.common import DEFAULT_NAMESPACE
from schemas.fact import Fact, FactMessage, Forget
from schemas.files.exported import ExportedMemory
from workers.client import exported
from workers.client.exported import Checked, Line
from workers.client.positions import Positions
from workers.client.publishing import Published, publish
from workers.kafka.admin import ensure_topics
from workers.kafka.config import KafkaSettings

CHUNK = 4_000
"""Memories that are published before their number is noted: an import that was stopped repeats at most so many."""
FILE = "imports.json"
MAX_NOTES = 20
"""Stopped imports that are remembered."""


@dataclass
class Imported:
    """What became of the memories of a file."""

    resumed_after: int = 0
    """Lines that an import before this one, which was stopped, had finished."""
    outcomes: Counter[str] = field(default_factory=Counter)
    not_remembered: int = 0
    """Memories that were decided before, and then forgotten, evicted or replaced; with `again` these are published once more."""
    forgotten: int = 0
    """Superseded memories whose successor does not replace them here, and that are forgotten instead."""
    after: Positions = field(default_factory=dict)


def import_memories(
    settings: KafkaSettings,
    path: Path,
    checked: Checked,
    data: Path,
    again: bool = False,
    progress: Callable[[int], object] = lambda lines: None,
) -> Imported:
    """Publishes the memories of a checked file, and returns when each is durably decided. `progress` gets the lines so far.

    `data`: the folder that keeps how far it came. Raises BadMessage, ClientError, KafkaError, KafkaUnavailable, OSError.
    """
    note = f"{ensure_topics(settings, (topics.FACTS,))[topics.FACTS]}/{checked.sha256}"
    done = _notes(data).get(note, 0)
    imported = Imported(resumed_after=done)
    here = set[str]()  # superseded memories that were not learned from this file: they are left as they are
    lines = (line for line in exported.read(path) if line.number > done)
    while chunk := list(islice(lines, CHUNK)):
        _import(settings, chunk, checked, here, again, imported, progress)
        done = chunk[-1].number
        _keep(data, note, done)
        progress(done)
    _keep(data, note, None)
    return imported


def fact_of(memory: ExportedMemory) -> Fact:
    """The fact that states a memory again, and that is learned whatever the model knows.

    A fact_id names the statement by which a memory was learned. One that was stated again since is another statement: an
    export that has it counts, though an earlier one was imported.
    """
    fact_id = memory.fact_id
    if fact_id is None or memory.reinforced:
        fact_id = f"memory:{memory.memory_id}:{memory.observed_at.isoformat()}"
    same = (
        "text",
        "category",
        "namespace",
        "source",
        "key",
        "cardinality",
        "metadata",
        "observed_at",
        "valid_until",
    )
    own = {name: getattr(memory, name) for name in same}
    return Fact(**own, fact_id=fact_id, min_loss_delta=0.0)


def _import(
    settings: KafkaSettings,
    chunk: list[Line],
    checked: Checked,
    here: set[str],
    again: bool,
    imported: Imported,
    progress: Callable[[int], object],
) -> None:
    """Publishes some memories, and mends what the decisions here make different."""
    memories = [line.memory for line in chunk if bytes.fromhex(line.memory.memory_id) not in checked.orphans]
    facts, begin = [fact_of(memory) for memory in memories], chunk[0].number
    published = publish(
        settings,
        map(_addressed, facts),
        True,
        lambda _, decided: progress(min(begin + decided, chunk[-1].number)),
    )
    _count(imported, published)
    missing, over = list[FactMessage](), list[FactMessage]()
    for memory, fact in zip(memories, facts, strict=True):
        verdict = published.verdicts.get((memory.namespace, fact.fact_id or ""))
        outcome = verdict.outcome if verdict else "dead-lettered"
        if memory.state == "remembered" and verdict and outcome == "duplicate" and verdict.memory_id is None:
            missing.append(fact.model_copy(update={"fact_id": f"again:{uuid.uuid4().hex}"}))
        if memory.state == "superseded" and outcome not in ("learned", "superseded"):
            here.add(memory.memory_id)
        if outcome in ("learned", "reinforced", "outdated"):
            older = checked.replaces.get(bytes.fromhex(memory.memory_id), [])
            over += [Forget(forget=one, namespace=memory.namespace) for one in older if one not in here]
    if again:
        _count(imported, publish(settings, map(_addressed, missing), True))
    else:
        imported.not_remembered += len(missing)
    imported.forgotten += publish(settings, map(_addressed, over), True).outcomes["forgotten"]


def _addressed(message: FactMessage) -> tuple[str, FactMessage]:
    return message.namespace or DEFAULT_NAMESPACE, message


def _count(imported: Imported, published: Published) -> None:
    imported.outcomes += published.outcomes
    imported.after |= published.after


def _notes(data: Path) -> dict[str, int]:
    """How many lines of each stopped import are finished; none if the file is missing or damaged."""
    with contextlib.suppress(OSError, orjson.JSONDecodeError):
        found = orjson.loads((data / FILE).read_bytes())
        if isinstance(found, dict):
            return {note: lines for note, lines in found.items() if type(lines) is int}
    return {}


def _keep(data: Path, note: str, lines: int | None) -> None:
    """Keeps how many lines are finished; None for all. If the folder cannot be written, an import begins from the start."""
    notes = _notes(data)
    notes.pop(note, None)
    if lines is not None:
        notes[note] = lines
    with contextlib.suppress(OSError):
        with atomic_file(data / FILE, durable=False) as file:
            file.write(orjson.dumps(dict(list(notes.items())[-MAX_NOTES:])))
