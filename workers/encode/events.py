"""Records of `facts` as events: a fact or a request is one, a conversation as many as it states.

A record waits decoded until the encoder has measured its texts.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

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
from schemas import topics
from schemas.common import BadMessage
from schemas.fact import Conversation, Fact, Forget, ForgetKey, Request, Restore, decode_fact
from workers.kafka.consumer import check_readable
from workers.kafka.first_offset import first_offset
from workers.observe import metrics

MAX_MIN_LOSS_DELTA = 1e6
"""Largest threshold of a fact, in nats: if float32 cannot hold it, the other facts of the message are lost, too."""


class Decoded(NamedTuple):
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


def decode(record: Any, topic_id: str, strict: bool, embedded: bool = False) -> Decoded:
    """A record of the topic. `strict`: refuse unknown fields, which otherwise are counted. Raises BadMessage.

    `embedded`: it is on the embedded broker, where it may have been published again.
    """
    check_readable(record)
    namespace, message, unknown = decode_fact(record.key, record.value, strict)
    metrics.UNKNOWN_FIELDS.inc(len(unknown))
    try:  # a producer may write any number there
        published_at = datetime.fromtimestamp(max(record.timestamp, 0) / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        raise BadMessage(
            "invalid-timestamp", f"the Kafka timestamp {record.timestamp} is not a time"
        ) from None
    if isinstance(message, Fact | Conversation) and abs(message.min_loss_delta or 0.0) > MAX_MIN_LOSS_DELTA:
        raise BadMessage("invalid-field", f"min_loss_delta: more than {MAX_MIN_LOSS_DELTA:g} nats")
    first = first_offset(record.headers, topic_id) if embedded else None
    cause = first or SourceOffset(topics.FACTS, topic_id, record.partition, record.offset)
    own = facts_of(message, published_at) if isinstance(message, Conversation) else message
    return Decoded(namespace, own, published_at, cause)


def events_of(decoded: Decoded, encodings: Iterator[FactEncoding | TooLong], most: float) -> Sequence[Event]:
    """The events of a record, at least one; each of its facts takes the next encoding. Raises BadMessage.

    most: nats, the largest possible unigram_nll of a word.
    """
    namespace, message, published_at, cause = decoded
    measured = [next(encodings) for _ in decoded.facts]  # all of them, also if one is refused
    if isinstance(message, Fact):
        return [_fact(decoded, message, measured[0])]
    if not isinstance(message, list):
        return [_request(decoded, message)]
    facts = [
        _fact(decoded, stated.fact, encoding) for stated, encoding in zip(message, measured, strict=True)
    ]
    kept = [
        fact
        for fact, stated in zip(facts, message, strict=True)
        if worth(stated.said, stated.fact.text, fact.encoding.priors, most) >= stated.least
    ]
    return kept or [NothingStated(namespace, published_at, cause)]


def _fact(decoded: Decoded, fact: Fact, encoding: FactEncoding | TooLong) -> NewFact:
    if isinstance(encoding, TooLong):
        raise BadMessage("too-long", str(encoding))
    losses = (encoding.base_loss, encoding.recall_loss, encoding.loss_delta)
    if not all(np.isfinite(numbers).all() for numbers in (losses, encoding.priors, encoding.surprisals)):
        raise BadMessage("not-measurable", "the model's losses on the text are not finite")
    namespace, _, published_at, cause = decoded
    observed_at = fact.observed_at or published_at
    return NewFact(
        namespace, encoding, observed_at, published_at, cause, fact.min_loss_delta, **labels_of(fact)
    )


def _request(decoded: Decoded, message: Request) -> Event:
    namespace, _, published_at, cause = decoded
    if isinstance(message, Restore):
        return RestoreRequest(namespace, message.restore, published_at, cause)
    if isinstance(message, Forget):
        return ForgetRequest(namespace, message.forget, message.erase, published_at, cause)
    key, fact_id = (message.forget_key, message.fact_id) if isinstance(message, ForgetKey) else (None, None)
    return ForgetRequest(
        namespace, None, message.erase, published_at, cause, key, message.observed_at, fact_id
    )
