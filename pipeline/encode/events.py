"""Messages of `facts` as events: a fact or a request is one, a conversation as many as it states.

A message waits until the encoder has measured its texts. Where it comes from, the topic or a file, is not known here.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import NamedTuple

import numpy as np

from pipeline.conversation.facts import Stated, facts_of
from pipeline.conversation.worth import worth
from pipeline.ingest.encoding import FactEncoding, TooLong
from pipeline.memory.events import (
    Event,
    ForgetRequest,
    NewFact,
    NothingStated,
    RestoreRequest,
    SourceOffset,
    labels_of,
)
from schemas.common import BadMessage
from schemas.fact import Conversation, Fact, FactMessage, Forget, ForgetKey, Request, Restore

MAX_MIN_LOSS_DELTA = 1e6
"""Largest threshold of a fact, in nats: if float32 cannot hold it, the other facts of the message are lost, too."""


class Waiting(NamedTuple):
    """A valid record that waits for its encodings: a request, a fact, or what a conversation states, which may be nothing."""

    namespace: str
    message: Request | Fact | list[Stated]
    published_at: datetime
    cause: SourceOffset

    @property
    def facts(self) -> list[Fact]:
        if isinstance(self.message, Fact):
            return [self.message]
        return [stated.fact for stated in self.message] if isinstance(self.message, list) else []


def waiting(namespace: str, message: FactMessage, published_at: datetime, cause: SourceOffset) -> Waiting:
    """A message with what it states. Raises BadMessage."""
    if isinstance(message, Fact | Conversation) and abs(message.min_loss_delta or 0.0) > MAX_MIN_LOSS_DELTA:
        raise BadMessage("invalid-field", f"min_loss_delta: more than {MAX_MIN_LOSS_DELTA:g} nats")
    own = facts_of(message, published_at) if isinstance(message, Conversation) else message
    return Waiting(namespace, own, published_at, cause)


def events_of(record: Waiting, encodings: Iterator[FactEncoding | TooLong], most: float) -> Sequence[Event]:
    """The events of a record, at least one; each of its facts takes the next encoding. Raises BadMessage.

    most: nats, the largest possible unigram_nll of a word.
    """
    namespace, message, published_at, cause = record
    measured = [next(encodings) for _ in record.facts]  # all of them, also if one is refused
    if isinstance(message, Fact):
        return [_fact(record, message, measured[0])]
    if not isinstance(message, list):
        return [_request(record, message)]
    facts = [_fact(record, stated.fact, encoding) for stated, encoding in zip(message, measured, strict=True)]
    kept = [
        fact
        for fact, stated in zip(facts, message, strict=True)
        if worth(stated.said, stated.fact.text, fact.encoding.priors, most) >= stated.least
    ]
    return kept or [NothingStated(namespace, published_at, cause)]


def _fact(record: Waiting, fact: Fact, encoding: FactEncoding | TooLong) -> NewFact:
    if isinstance(encoding, TooLong):
        raise BadMessage("too-long", str(encoding))
    losses = (encoding.base_loss, encoding.recall_loss, encoding.loss_delta)
    if not all(np.isfinite(numbers).all() for numbers in (losses, encoding.priors, encoding.surprisals)):
        raise BadMessage("not-measurable", "the model's losses on the text are not finite")
    namespace, _, published_at, cause = record
    observed_at = fact.observed_at or published_at
    return NewFact(
        namespace, encoding, observed_at, published_at, cause, fact.min_loss_delta, **labels_of(fact)
    )


def _request(record: Waiting, message: Request) -> Event:
    namespace, _, published_at, cause = record
    if isinstance(message, Restore):
        return RestoreRequest(namespace, message.restore, published_at, cause)
    if isinstance(message, Forget):
        return ForgetRequest(namespace, message.forget, message.erase, published_at, cause)
    key, fact_id = (message.forget_key, message.fact_id) if isinstance(message, ForgetKey) else (None, None)
    return ForgetRequest(
        namespace, None, message.erase, published_at, cause, key, message.observed_at, fact_id
    )
