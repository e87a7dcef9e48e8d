"""A conversation kept by factstream: what the user states is learned, and every turn stays readable in order.

Each turn is a fact. The writer keeps every decision in its history, so the transcript is read from there; the memory holds only
what was worth learning. Questions, and what others than the user say, are kept in the transcript and never learned.
"""

import json
from collections.abc import Iterable
from pathlib import Path

from pipeline.query.run import run
from schemas.fact import Fact, FactMessage, ForgetAll
from workers import client
from workers.client import positions
from workers.kafka.config import KafkaSettings

NEVER = 1e6  # nats per token, the most that is accepted: no fact lowers the model's loss by so much
OTHERS = "/others"  # the namespace of what the user did not say; nobody asks it

TRANSCRIPT = """
select text, metadata from history
where namespace in ($own, $others) and topic = 'facts' and text is not null and metadata->>'role' is not null
    and outcome <> 'duplicate'
order by published_at, (metadata->>'n')::int
"""
SESSIONS = """
select distinct namespace from history
where topic = 'facts' and text is not null and metadata->>'role' is not null order by namespace
"""


def add(settings: KafkaSettings, data: Path, session: str, turns: Iterable[tuple[str, str]]) -> None:
    """Keeps (role, text) turns, and returns when they are decided. A text has at most 8 KiB, and is not blank."""
    facts = list[tuple[str, FactMessage]]()
    for n, (role, text) in enumerate(turns):
        learned = role == "user" and not text.rstrip().endswith("?")
        fact = Fact(text=text, metadata={"role": role, "n": n}, min_loss_delta=None if learned else NEVER)
        facts.append((session if role == "user" else session + OTHERS, fact))
    published = client.publish(settings, facts, wait=True)
    if published.outcomes["dead-lettered"]:
        raise client.ClientError("a turn is in the dead letters; its headers say why")
    positions.remember(data, published.after)


def turns(data: Path, session: str) -> list[tuple[str, str]]:
    """The turns of a session, the oldest first, from the data folder of the writer."""
    rows = run(data, TRANSCRIPT, parameters={"own": session, "others": session + OTHERS}).to_pylist()
    return [(json.loads(row["metadata"])["role"], row["text"]) for row in rows]


def sessions(data: Path) -> list[str]:
    """The sessions that have turns."""
    rows = run(data, SESSIONS).to_pylist()
    return sorted({row["namespace"].removesuffix(OTHERS) for row in rows})


def clear(settings: KafkaSettings, session: str) -> None:
    """Forgets a session, and erases its texts from the data folder."""
    both = [(name, ForgetAll(forget_all=True, erase=True)) for name in (session, session + OTHERS)]
    client.publish(settings, both, wait=True)
