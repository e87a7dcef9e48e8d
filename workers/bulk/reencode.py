"""`factstream reencode`: the memories of a data folder as facts, for a job with another model.

They are exported, checked and stated again as by `factstream memories export` and `import`. Of the superseded memories those are carried that
every model replaces again, since their key has a newer value. Of the others only the old model saw that one contradicts another.
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pipeline.files import atomic_file
from pipeline.query.export import export
from pipeline.query.filter import Filter
from schemas.common import encode
from workers.client import exported
from workers.client.exported import Checked, Line
from workers.client.importing import fact_of

MEMORIES, FACTS = "memories.parquet", "facts.jsonl"
KEYED = ("key", "key_taken_up")
"""The rules by which a key replaces a memory (pipeline/decide/verdict.py)."""


@dataclass(frozen=True)
class Taken:
    """The memories that were taken from a data folder."""

    facts: Path
    """The facts that state them, in their order."""
    remembered: int
    superseded: int
    left_out: int
    """Superseded ones that are not carried."""


def take(data: Path, out: Path) -> Taken:
    """Writes a snapshot of the memories to the folder of a job, once: a job that goes on, or another shard, takes the same.

    Raises QueryError, BadMessage, OSError.
    """
    memories, facts = out / MEMORIES, out / FACTS
    if not memories.exists():
        with suppress(FileExistsError), atomic_file(memories, exclusive=True) as file:
            export(data, Filter(), file, True, lambda done: None)
    checked = exported.check(memories)
    if not facts.exists():
        with suppress(FileExistsError), atomic_file(facts, exclusive=True) as file:
            file.writelines(encode(fact_of(line.memory)) + b"\n" for line in _carried(memories, checked))
    superseded = sum(line.memory.state == "superseded" for line in _carried(memories, checked))
    left_out = checked.superseded + len(checked.orphans) - superseded
    return Taken(facts, checked.remembered, superseded, left_out)


def _carried(memories: Path, checked: Checked) -> Iterator[Line]:
    for line in exported.read(memories):
        memory = line.memory
        is_replaced_again = memory.rule in KEYED and bytes.fromhex(memory.memory_id) not in checked.orphans
        if memory.state == "remembered" or is_replaced_again:
            yield line
