"""Conversations as they were held: their turns become facts, in place of a file's own facts."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from pipeline.bench.files import BenchFileError, Talk, TalkFact, TalkTurn
from pipeline.config import CONVERSATIONS
from pipeline.conversation.facts import facts_of
from pipeline.conversation.sentences import sentences
from pipeline.conversation.worth import fitted, worth
from pipeline.ingest.encoder import Encoder
from schemas.fact import Conversation, Turn


@dataclass(frozen=True, slots=True)
class TurnsResult:
    """What is left of turns, step by step; of sentences that the file marks as worth a memory, and of the others."""

    turns: int
    sentences: int
    stated: int
    """Sentences that state something, by the rules."""
    kept: int
    """Sentences whose words are rare enough."""
    marked: int | None
    """Sentences that are marked, None in a file that marks none."""
    marked_stated: int
    marked_kept: int
    fitted: float | None
    """The least worth (nats) that would be fitted on this file."""


@dataclass(frozen=True, slots=True)
class _Sentence:
    marked: bool
    worth: float


def learnable(encoder: Encoder, talks: Sequence[Talk]) -> tuple[list[Talk], TurnsResult]:
    """The conversations with what their turns state in place of their facts. Each turn is a message of its own."""
    most, learned, found = encoder.frequencies.max_nll, list[Talk](), list[_Sentence]()
    for talk in talks:
        said = [(turn, stated) for turn in talk.turns for stated in facts_of(_message(turn), turn.at)]
        encodings = encoder.encode([stated.fact.text for _, stated in said])
        facts = []
        for (turn, stated), encoding in zip(said, encodings, strict=True):
            own = worth(stated.said, stated.fact.text, encoding.priors, most)
            found.append(_Sentence(stated.said in turn.worth, own))
            if own >= CONVERSATIONS.min_worth:
                facts.append(TalkFact(text=stated.fact.text, evidence=(turn.id,)))
        learned.append(talk.model_copy(update={"facts": tuple(facts)}))
    turns = [turn for talk in talks for turn in talk.turns]
    marked = sum(len(turn.worth) for turn in turns)
    kept = [one.worth >= CONVERSATIONS.min_worth for one in found]
    return learned, TurnsResult(
        len(turns), sum(len(sentences(turn.said)) for turn in turns), len(found), sum(kept), marked or None,
        sum(one.marked for one in found), sum(one.marked for one, own in zip(found, kept, strict=True) if own),
        fitted(np.array([one.worth for one in found]), np.array([one.marked for one in found])) if marked else None,
    )  # fmt: skip


def with_turns(talks: Sequence[Talk], file: Path | None) -> Sequence[Talk]:
    """The conversations with the turns of a file, if any, in LoCoMo's own form (locomo10.json). Raises BenchFileError."""
    if file is None:
        return talks
    try:
        samples = {
            str(sample["sample_id"]).removeprefix("conv-"): sample
            for sample in orjson.loads(file.read_bytes())
        }
        return [talk.model_copy(update={"turns": _turns(samples[talk.conversation])}) for talk in talks]
    except OSError as error:
        raise BenchFileError(f"{file}: {error.strerror or error}") from None
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise BenchFileError(f"{file}: not LoCoMo's conversations: {error!r}"[:300]) from None


def _turns(sample: dict[str, Any]) -> tuple[TalkTurn, ...]:
    talk, turns, number = sample["conversation"], list[TalkTurn](), 1
    while f"session_{number}" in talk:
        at = datetime.strptime(talk[f"session_{number}_date_time"], "%I:%M %p on %d %B, %Y").replace(
            tzinfo=UTC
        )
        turns += [
            TalkTurn(id=turn["dia_id"], speaker=turn["speaker"], at=at, said=turn["text"])
            for turn in talk[f"session_{number}"]
        ]
        number += 1
    return tuple(turns)


def _message(turn: TalkTurn) -> Conversation:
    return Conversation(messages=[Turn(role="user", name=turn.speaker, content=turn.said, timestamp=turn.at)])
