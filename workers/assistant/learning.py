"""What a chat learns from a message, and how that is taken back: through the topic `facts`."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from pipeline.conversation.facts import facts_of
from pipeline.memory.bank import memory_id
from pipeline.query import run as query
from schemas.common import validate
from schemas.fact import Conversation, FactMessage, Forget, Restore
from workers import client
from workers.client import positions
from workers.kafka.config import KafkaSettings

KEPT = ("learned", "superseded", "reinforced")
"""Outcomes after which a statement is remembered."""


@dataclass(frozen=True, slots=True)
class Learned:
    """A statement that is remembered now."""

    memory_id: str
    text: str
    outcome: str  # one of KEPT


def learn(
    settings: KafkaSettings, data: Path, namespace: str, text: str, speaker: str | None, now: datetime
) -> list[Learned]:
    """Publishes what a user says, if it states anything, and waits until it is decided. now: in the speaker's UTC offset.

    Raises ClientError, KafkaError, KafkaUnavailable, BadMessage.
    """
    message = {"role": "user", "content": text, "name": speaker}
    conversation = validate(Conversation, {"messages": [message], "timestamp": now, "source": "chat"})
    texts = {memory_id(namespace, own.fact.text): own.fact.text for own in facts_of(conversation, now)}
    if not texts:
        return []
    published = _publish(settings, data, namespace, [conversation])
    return [
        Learned(decided.memory_id, texts[decided.memory_id], decided.outcome)
        for decided in published.decided
        if decided.outcome in KEPT and decided.memory_id in texts
    ]


def forget(settings: KafkaSettings, data: Path, namespace: str, memory_ids: list[str]) -> None:
    """Forgets memories, and waits until that is decided. Raises as `learn` does."""
    _publish(settings, data, namespace, [Forget(forget=memory_id) for memory_id in memory_ids])


def undo(settings: KafkaSettings, data: Path, namespace: str, learned: list[Learned]) -> None:
    """Takes back what a message taught: forgets what was new, and restores what it superseded. Raises as `learn` does."""
    new = [one.memory_id for one in learned if one.outcome != "reinforced"]
    older = [
        row["nearest"]
        for one in learned
        if one.outcome == "superseded"
        for row in _older(data, one.memory_id)
    ]
    requests: list[FactMessage] = [Forget(forget=memory_id) for memory_id in new]
    requests += [Restore(restore=memory_id) for memory_id in older]
    _publish(settings, data, namespace, requests)


def _older(data: Path, memory_id: str) -> list[dict[str, str]]:
    """The memory that this one superseded; none if the history is elsewhere."""
    sql = (
        "SELECT nearest FROM history WHERE memory_id = $memory_id AND outcome = 'superseded' AND nearest IS NOT NULL "
        "ORDER BY history_position DESC LIMIT 1"
    )
    try:
        found: list[dict[str, str]] = query.run(data, sql, parameters={"memory_id": memory_id}).to_pylist()
    except query.QueryError:
        return []
    return found


def _publish(
    settings: KafkaSettings, data: Path, namespace: str, messages: list[FactMessage]
) -> client.Published:
    published = client.publish(settings, [(namespace, message) for message in messages], wait=True)
    if published.outcomes["dead-lettered"]:
        raise client.ClientError("it is in the dead letters; their headers say why")
    positions.remember(data, published.after)
    return published
