"""The encoder worker: facts in, encoded facts out; a conversation becomes the facts that it states.

A record that is not a valid fact, or that the model cannot measure, goes to the dead letters: a whole conversation, if one of
its facts does. Delivery is at least once: encodings are flushed before the facts' offsets are committed, and the writer decides
each record once, by the source offset that is sent with it. A batch is encoded in pieces. It ends after a few seconds, however
long its texts are, and at once when the worker must stop; the rest is read again.
"""

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import zip_longest
from typing import Any, NamedTuple

from pipeline.ingest.encoding import FactEncoding, Stopped, TooLong
from pipeline.memory.codec import facts_to_batch
from pipeline.memory.events import Event, NewFact
from schemas import topics
from schemas.common import BadMessage
from schemas.encoding import encode_batch
from workers.encode.events import Decoded, decode, events_of
from workers.kafka.config import KafkaSettings
from workers.kafka.dead_letters import dead_letter
from workers.kafka.partitioner import partition_for
from workers.kafka.producer import BATCH_OVERHEAD_BYTES, Producer
from workers.observe import log, metrics, tracing
from workers.runtime.loading import kept_objects
from workers.runtime.signals import Stop
from workers.runtime.worker import Done, Worker

ROWS = 64
"""Most rows of one message, unless one record alone has more."""
MESSAGE_BYTES = 1024 * 1024
"""Bytes of text and states after which a message ends: FACTSTREAM_MAX_RECORD_BYTES may make the topics small."""
PIECE_BYTES = 32 * 1024
"""Bytes of text that are encoded together. A larger piece fills the model's batches better, and takes longer to stop."""
BATCH_S = 4.0
"""Seconds after which no further piece is begun."""


class Encoded(NamedTuple):
    """The events of one record, in order, and the context of its trace. They travel in one message."""

    events: Sequence[Event]
    trace: str | None


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
        self._alone = False

    @kept_objects()
    def load(self, alone: bool) -> None:
        from pipeline.ingest.encoder import Encoder

        self._alone = alone
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
        started, end, facts, refused = time.monotonic(), 0, 0, 0
        while end < len(waiting) and (end == 0 or time.monotonic() - started < BATCH_S):
            decoded = self._decode_piece(record for _, record in waiting[end:])
            piece = [record for _, record in waiting[end : end + len(decoded)]]
            since = tracing.now()
            try:
                encoded = self._encode(decoded)
            except Stopped:
                break
            taken = []
            for record, events in zip(piece, encoded, strict=True):
                if isinstance(events, BadMessage):
                    self._refuse(record, events)
                    refused += 1
                else:
                    taken.append((record, events))
                    facts += len(events)
            self._send(_observed(taken, since))
            end += len(piece)
        self._producer.flush_or_raise()
        offsets = {partition: record.offset + 1 for partition, record in waiting[:end]}
        fields: dict[str, object] = {"facts": facts, "dead_letters": refused}
        return Done(fields, offsets if end < len(waiting) else None)

    def _decode_piece(self, records: Iterable[Any]) -> list[Decoded | BadMessage]:
        """Decode the first records, until their texts have PIECE_BYTES; the error for a record that is not valid."""
        decoded: list[Decoded | BadMessage] = []
        size = 0
        for record in records:
            try:
                decoded.append(one := decode(record, self._topic_id, self._strict, self._alone))
                size += sum(len(fact.text.encode()) for fact in one.facts)
            except BadMessage as error:
                decoded.append(error)
            if size >= PIECE_BYTES:
                break
        return decoded

    def _encode(self, piece: Sequence[Decoded | BadMessage]) -> list[Sequence[Event] | BadMessage]:
        """The events or the error of each record of a piece, in order. Raises Stopped."""
        texts = [fact.text for d in piece if isinstance(d, Decoded) for fact in d.facts]
        encodings = iter(self._encoder.encode_each(texts, self._stop.is_set))
        return [d if isinstance(d, BadMessage) else self._events(d, encodings) for d in piece]

    def _events(
        self, decoded: Decoded, encodings: Iterator[FactEncoding | TooLong]
    ) -> Sequence[Event] | BadMessage:
        try:
            events = events_of(decoded, encodings, self._encoder.frequencies.max_nll)
            self._check_sizes(events)
        except BadMessage as error:
            return error
        return events

    def _check_sizes(self, events: Sequence[Event]) -> None:
        """Raises BadMessage unless each memory will fit into a record of the changelog, where its states are in base64, and
        all of them together into one of fact-encodings."""
        sizes = [_state_bytes(event) for event in events]
        for size, name in (
            (max(sizes) * 4 // 3, topics.MEMORY_CHANGELOG),
            (sum(sizes), topics.FACT_ENCODINGS),
        ):
            if size > (limit := self._settings.max_bytes(name)) - 2 * BATCH_OVERHEAD_BYTES:
                raise BadMessage(
                    "too-large", f"its memory has {size} bytes; FACTSTREAM_MAX_RECORD_BYTES allows {limit}"
                )

    def _refuse(self, record: Any, error: BadMessage) -> None:
        assert self._producer is not None
        dead_letter(self._producer, record, error.reason, str(error), self.name, datetime.now(UTC))
        tracing.stage("encode", record, tracing.now(), error=error.reason)

    def _send(self, encoded: Sequence[Encoded]) -> None:
        """Send events, each with the trace context of its record, in messages of one namespace."""
        assert self._producer is not None
        by_namespace = defaultdict(list)
        for record in encoded:
            by_namespace[record.events[0].namespace].append(record)
        for messages in zip_longest(*(_messages(own) for own in by_namespace.values())):
            for namespace, some in zip(by_namespace, messages, strict=True):
                if some:
                    events = [event for record in some for event in record.events]
                    traces = [record.trace for record in some for _ in record.events]
                    value = encode_batch(facts_to_batch(events, self._encoder.encoder_id))
                    partition = partition_for(namespace, self._partitions)
                    headers = tracing.headers_of_rows(traces)
                    self._producer.send(topics.FACT_ENCODINGS, value, namespace.encode(), partition, headers)
            # A producer that gives up one record may still deliver the next, and the writer skips a fact with a lower
            # offset than one it has decided. So a message is sent only after the one before it has arrived.
            self._producer.flush_or_raise()


def _messages(own: Sequence[Encoded]) -> Iterator[list[Encoded]]:
    """The records of a namespace in messages of at most `ROWS` rows and about `MESSAGE_BYTES`, in their order.

    The events of a record are never parted: the writer decides them together, or not at all.
    """
    some: list[Encoded] = []
    rows, size = 0, 0
    for record in own:
        own_rows, own_size = len(record.events), sum(map(_state_bytes, record.events))
        if some and (rows + own_rows > ROWS or size + own_size > MESSAGE_BYTES):
            yield some
            some, rows, size = [], 0, 0
        some.append(record)
        rows, size = rows + own_rows, size + own_size
    if some:
        yield some


def _state_bytes(event: Event) -> int:
    """The part of an event's bytes that its sender makes large: text, states and labels."""
    if not isinstance(event, NewFact):
        return 0
    encoding = event.encoding
    arrays = (encoding.vectors, encoding.priors, encoding.surprisals)
    labels = (event.category, event.source, event.metadata, event.key, event.fact_id)
    texts = sum(len((text or "").encode()) for text in labels)
    return len(encoding.text) * 4 + texts + sum(array.nbytes for array in arrays)


def _observed(taken: Sequence[tuple[Any, Sequence[Event]]], since: int) -> list[Encoded]:
    """Count the events, and pair those of each record with the context of its span, which began at `since` (ns since the epoch)."""
    metrics.ENCODED.inc(sum(len(events) for _, events in taken))
    return [
        Encoded(events, tracing.stage("encode", record, since, {"factstream.namespace": events[0].namespace}))
        for record, events in taken
    ]
