"""Facts of a conversation: what its users state, about them or with speaker and date."""

import re
from collections.abc import Iterator
from datetime import datetime
from typing import Any, NamedTuple

from pipeline.config import CONVERSATIONS
from pipeline.conversation import dates, verbs
from pipeline.conversation.sentences import sentences
from pipeline.conversation.speaker import in_third_person, is_first_person
from pipeline.conversation.statements import is_anaphoric, is_english, is_statement, without_lead
from schemas.common import MAX_TEXT_BYTES, BadMessage, metadata_text, validate
from schemas.fact import Conversation, Fact, Turn

MAX_FACTS = 256
"""Most facts of one record: they travel in one message."""
USER = "the user"
"""The name of a speaker who has none."""

_NAMED = re.compile(r"^(?:The |A |An |In |On |At )?[A-Z][\w'-]*(?: [a-z]+)* [A-Z0-9]|\b(?<!^)[A-Z][a-z]+|\d")


class Statement(NamedTuple):
    """A sentence that states something, and the same as a fact."""

    said: str
    text: str
    alone: bool  # else it begins with the statement before it


class Stated(NamedTuple):
    """A fact of a conversation, the sentence that states it, and what that must be worth (nats)."""

    fact: Fact
    said: str
    least: float


def facts_of(conversation: Conversation, published_at: datetime) -> list[Stated]:
    """What a conversation states, in order; nothing is empty. Raises BadMessage for too many statements.

    published_at: the time of what was said at no known time.
    """
    found = list[Stated]()
    least = CONVERSATIONS.min_worth if conversation.min_loss_delta is None else 0.0
    before = ""
    for turn in conversation.messages:
        at = turn.timestamp or conversation.timestamp or published_at
        for statement in statements(turn, at, before):
            before = statement.text if statement.alone else before
            number, fact_id = len(found), conversation.fact_id
            if number == MAX_FACTS:
                raise BadMessage(
                    "invalid-field",
                    f"messages: more than {MAX_FACTS} statements; send fewer messages a record",
                )
            body = {
                "text": statement.text, "category": conversation.category, "source": conversation.source,
                "fact_id": None if fact_id is None else f"{fact_id}#{number}",
                "metadata": _metadata(conversation.metadata, turn, statement), "observed_at": at,
                "valid_until": conversation.valid_until, "min_loss_delta": conversation.min_loss_delta,
            }  # fmt: skip
            fact = validate(Fact, body)
            found.append(Stated(fact, statement.said, least))
    return found


def statements(turn: Turn, at: datetime, before: str = "") -> Iterator[Statement]:
    """What a message states, sentence by sentence; nothing unless a user says it.

    at: its time, in the speaker's offset; before: what was stated last before it.
    """
    if turn.role != "user":
        return
    for sentence in sentences(turn.content):
        stated = without_lead(sentence)
        if not is_statement(stated):
            continue
        if is_anaphoric(stated):  # alone it would say nothing
            if before:
                own = _ended(_own(stated, turn.name or USER, at))
                yield Statement(sentence, f"{before} {own}", False)
            continue
        before = _ended(_text(stated, turn.name or USER, at))
        yield Statement(sentence, before, True)


def _text(sentence: str, name: str, at: datetime) -> str:
    """The sentence as a fact: about its speaker, as it is where it speaks of something else by name, or as quoted."""
    english = is_english(sentence)
    own = _own(sentence, name, at) if english else sentence
    if english and (
        own != dates.resolve(sentence, at.date())
        or (not is_first_person(sentence) and _NAMED.search(sentence))
    ):
        return own
    return f"{name[:1].upper()}{name[1:]} said on {dates.written(at.date())}: {own}"


def _own(sentence: str, name: str, at: datetime) -> str:
    """The sentence with dates, and about its speaker by name where the grammar is safe."""
    words, full = sentence.split(), sentence
    verb = next((i for i, word in enumerate(words[:3]) if not verbs.is_adverb(word.lower().strip(","))), 0)
    if words[verb].lower() in verbs.SUBJECTLESS:
        full = f"I {sentence[:1].lower()}{sentence[1:]}"
    own = in_third_person(full, name, dates.is_past(sentence)) if is_first_person(full) else None
    if own and len(own.encode()) > MAX_TEXT_BYTES // 3:  # a long name, many times
        own = None
    return dates.resolve(own or sentence, at.date())


def _ended(text: str) -> str:
    return text if text[-1:] in ".!?…。！？\"'”»)" else f"{text}."


def _metadata(given: dict[str, Any] | None, turn: Turn, statement: Statement) -> dict[str, Any] | None:
    """The metadata with who said what; without that where it has no room."""
    own = {"speaker": turn.name} if turn.name else {}
    with_words = {**(given or {}), **own, "said": statement.said}
    try:
        metadata_text(with_words)
    except ValueError:
        return given
    return with_words
