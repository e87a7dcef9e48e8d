"""The encoder worker: facts in, encoded facts out.

A record that is not a valid fact, or that the model cannot measure, goes to the dead letters. Delivery is at least once:
encodings are flushed before the facts' offsets are committed, and the writer decides each fact once, by the source offset
that is sent with it. A batch is encoded in pieces. It ends after a few seconds, however long its texts are, and at once
when the worker must stop; the rest is read again.
"""

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import zip_longest
from typing import Any, NamedTuple

import numpy as np

from pipeline.ingest.encoding import FactEncoding, Stopped, TooLong
from pipeline.memory.codec import facts_to_batch
from pipeline.memory.events import (
    Event,
    ForgetRequest,
    NewFact,
    RestoreRequest,
    SourceOffset,
    labels_of,
)
from schemas import topics
from schemas.common import BadMessage
from schemas.encoding import encode_batch
from schemas.fact import Fact, FactMessage, Forget, ForgetKey, Restore, decode_fact
from workers.kafka.config import KafkaSettings
from workers.kafka.consumer import check_readable
from workers.kafka.dead_letters import dead_letter
from workers.kafka.partitioner import partition_for
from workers.kafka.producer import BATCH_OVERHEAD_BYTES, Producer
from workers.observe import log, metrics, tracing
from workers.runtime.signals import Stop
from workers.runtime.worker import Done, Worker

ROWS = 64
"""Most rows of one message."""
MESSAGE_BYTES = 1024 * 1024
"""Bytes of text and states after which a message ends: FACTSTREAM_MAX_RECORD_BYTES may make the topics small."""
PIECE_BYTES = 32 * 1024
"""Bytes of text that are encoded together. A larger piece fills the model's batches better, and takes longer to stop."""
BATCH_S = 4.0
"""Seconds after which no further piece is begun."""
MAX_MIN_LOSS_DELTA = 1e6
"""Largest threshold of a fact, in nats: if float32 cannot hold it, the other facts of the message are lost, too."""


class Decoded(NamedTuple):
    """A valid message that waits for its encoding."""

    namespace: str
    message: FactMessage
    published_at: datetime
    cause: SourceOffset

    @property
    def text(self) -> str:
        return self.message.text if isinstance(self.message, Fact) else ""


class EncoderWorker(Worker):
    name = "encoder"
    uses: Sequence[str] = (topics.FACT_ENCODINGS, topics.DEAD_LETTERS)
    topics: Sequence[str] = (topics.FACTS,)
    read_committed = True

    def __init__(
        self,
        settings: KafkaSettings,
        model: str,
        device: str = "auto",
        stop: Stop | None = None,
        strict: bool = False,
    ) -> None:
        """`stop` interrupts the encoding: on a CPU a piece takes longer than a worker may take to stop.

        `strict`: a record with an unknown field is a dead letter; otherwise the field is left out and counted.
        """
        self._settings, self._model, self._device, self._strict = settings, model, device, strict
        self._stop = stop or Stop()
        self._producer: Producer | None = None
        self._topic_id = ""

    def load(self, alone: bool) -> None:
        from pipeline.ingest.encoder import Encoder

        self._encoder = Encoder.load(self._model, self._device, "auto", log.line)

    def start(self, consumer: Any, topic_ids: dict[str, str]) -> None:
        self._topic_id = topic_ids[topics.FACTS]
        self._partitions = len(consumer.partitions_for_topic(self._settings.topic(topics.FACTS)) or ())
        self._producer = self._settings.producer()

    def ready(self) -> dict[str, str | int]:
        return {"model": self._model}

    def close(self) -> None:
        if self._producer:
            self._producer.close()

    def process(self, records: dict[Any, list[Any]]) -> Done:
        """Encode as much of a batch as there is time for, and send the encodings and dead letters."""
        assert self._producer is not None
        oldest_first = sorted(records, key=lambda partition: records[partition][0].timestamp)
        waiting = [(partition, record) for partition in oldest_first for record in records[partition]]
        started, end, facts = time.monotonic(), 0, 0
        while end < len(waiting) and (end == 0 or time.monotonic() - started < BATCH_S):
            decoded = self._decode_piece(record for _, record in waiting[end:])
            piece = [record for _, record in waiting[end : end + len(decoded)]]
            since = tracing.now()
            try:
                events = self._encode(decoded)
            except Stopped:
                break
            taken = []
            for record, event in zip(piece, events, strict=True):
                if isinstance(event, BadMessage):
                    self._refuse(record, event)
                else:
                    taken.append((record, event))
            self._send(_observed(taken, since))
            end, facts = end + len(piece), facts + len(taken)
        self._producer.flush_or_raise()
        offsets = {partition: record.offset + 1 for partition, record in waiting[:end]}
        fields: dict[str, object] = {"facts": facts, "dead_letters": end - facts}
        return Done(fields, offsets if end < len(waiting) else None)

    def _decode_piece(self, records: Iterable[Any]) -> list[Decoded | BadMessage]:
        """Decode the first records, until their texts have PIECE_BYTES; the error for a record that is not valid."""
        decoded: list[Decoded | BadMessage] = []
        size = 0
        for record in records:
            try:
                decoded.append(one := self._decode(record))
                size += len(one.text.encode())
            except BadMessage as error:
                decoded.append(error)
            if size >= PIECE_BYTES:
                break
        return decoded

    def _decode(self, record: Any) -> Decoded:
        check_readable(record)
        namespace, message, unknown = decode_fact(record.key, record.value, self._strict)
        metrics.UNKNOWN_FIELDS.inc(len(unknown))
        try:  # a producer may write any number there
            published_at = datetime.fromtimestamp(max(record.timestamp, 0) / 1000, UTC)
        except (ValueError, OverflowError, OSError):
            raise BadMessage(
                "invalid-timestamp", f"the Kafka timestamp {record.timestamp} is not a time"
            ) from None
        if isinstance(message, Fact) and abs(message.min_loss_delta or 0.0) > MAX_MIN_LOSS_DELTA:
            raise BadMessage("invalid-field", f"min_loss_delta: more than {MAX_MIN_LOSS_DELTA:g} nats")
        cause = SourceOffset(topics.FACTS, self._topic_id, record.partition, record.offset)
        return Decoded(namespace, message, published_at, cause)

    def _encode(self, piece: Sequence[Decoded | BadMessage]) -> list[Event | BadMessage]:
        """The event or the error of each record of a piece, in order. Raises Stopped."""
        texts = [d.text for d in piece if isinstance(d, Decoded) and isinstance(d.message, Fact)]
        encodings = iter(self._encoder.encode_each(texts, self._stop.is_set))
        events = [d if isinstance(d, BadMessage) else _event(d, encodings) for d in piece]
        return [event if isinstance(event, BadMessage) else self._fitting(event) for event in events]

    def _fitting(self, event: Event) -> Event | BadMessage:
        """The event, if its memory will fit into a record of the changelog, where its states are in base64."""
        size, limit = _state_bytes(event) * 4 // 3, self._settings.max_bytes(topics.MEMORY_CHANGELOG)
        if size <= limit - 2 * BATCH_OVERHEAD_BYTES:
            return event
        return BadMessage(
            "too-large", f"its memory has {size} bytes; FACTSTREAM_MAX_RECORD_BYTES allows {limit}"
        )

    def _refuse(self, record: Any, error: BadMessage) -> None:
        assert self._producer is not None
        dead_letter(self._producer, record, error.reason, str(error), self.name, datetime.now(UTC))
        tracing.stage("encode", record, tracing.now(), error=error.reason)

    def _send(self, encoded: Sequence[tuple[Event, str | None]]) -> None:
        """Send events, each with its trace context, in messages of one namespace."""
        assert self._producer is not None
        by_namespace = defaultdict(list)
        for event, trace in encoded:
            by_namespace[event.namespace].append((event, trace))
        for messages in zip_longest(*(_messages(own) for own in by_namespace.values())):
            for namespace, some in zip(by_namespace, messages, strict=True):
                if some:
                    events, traces = zip(*some, strict=True)
                    value = encode_batch(facts_to_batch(events, self._encoder.encoder_id))
                    partition = partition_for(namespace, self._partitions)
                    headers = tracing.headers_of_rows(traces)
                    self._producer.send(topics.FACT_ENCODINGS, value, namespace.encode(), partition, headers)
            # A producer that gives up one record may still deliver the next, and the writer skips a fact with a lower
            # offset than one it has decided. So a message is sent only after the one before it has arrived.
            self._producer.flush_or_raise()


def _messages(own: Sequence[tuple[Event, str | None]]) -> Iterator[list[tuple[Event, str | None]]]:
    """The events of a namespace in messages of at most `ROWS` rows and about `MESSAGE_BYTES`, in their order."""
    some: list[tuple[Event, str | None]] = []
    size = 0
    for event, trace in own:
        bytes_of_row = _state_bytes(event)
        if some and (len(some) == ROWS or size + bytes_of_row > MESSAGE_BYTES):
            yield some
            some, size = [], 0
        some.append((event, trace))
        size += bytes_of_row
    if some:
        yield some


def _state_bytes(event: Event) -> int:
    """The part of an event's bytes that grows with its text."""
    if not isinstance(event, NewFact):
        return 0
    encoding = event.encoding
    arrays = (encoding.vectors, encoding.priors, encoding.surprisals)
    return len(encoding.text) * 4 + sum(array.nbytes for array in arrays)


def _event(decoded: Decoded, encodings: Iterator[FactEncoding | TooLong]) -> Event | BadMessage:
    """The event of a decoded message; a fact takes the next of the encodings. BadMessage if it cannot be measured."""
    namespace, message, published_at, cause = decoded
    if isinstance(message, Restore):
        return RestoreRequest(namespace, message.restore, published_at, cause)
    if isinstance(message, Forget):
        return ForgetRequest(namespace, message.forget, message.erase, published_at, cause)
    if not isinstance(message, Fact):
        key, fact_id = (
            (message.forget_key, message.fact_id) if isinstance(message, ForgetKey) else (None, None)
        )
        return ForgetRequest(
            namespace, None, message.erase, published_at, cause, key, message.observed_at, fact_id
        )
    encoding = next(encodings)
    if isinstance(encoding, TooLong):
        return BadMessage("too-long", str(encoding))
    losses = (encoding.base_loss, encoding.recall_loss, encoding.loss_delta)
    if not all(np.isfinite(numbers).all() for numbers in (losses, encoding.priors, encoding.surprisals)):
        return BadMessage("not-measurable", "the model's losses on the text are not finite")
    observed_at = message.observed_at or published_at
    return NewFact(
        namespace, encoding, observed_at, published_at, cause, message.min_loss_delta, **labels_of(message)
    )


def _observed(taken: Sequence[tuple[Any, Event]], since: int) -> list[tuple[Event, str | None]]:
    """Count the events, and pair each with the trace context of its span, which began at `since` (ns since the epoch)."""
    metrics.ENCODED.inc(len(taken))
    return [
        (event, tracing.stage("encode", record, since, {"factstream.namespace": event.namespace}))
        for record, event in taken
    ]
