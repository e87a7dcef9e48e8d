"""The encoder worker: facts in, encoded facts out; a conversation becomes the facts that it states.

A record that is not a valid fact, or that the model cannot measure, goes to the dead letters: a whole conversation, if one of
its facts does. Delivery is at least once: encodings are flushed before the facts' offsets are committed, and the writer decides
each record once, by the source offset that is sent with it. A batch is encoded in pieces. It ends after a few seconds, however
long its texts are, and at once when the worker must stop; the rest is read again.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from pipeline.encode.events import Waiting, events_of
from pipeline.ingest.encoding import FactEncoding, Stopped, TooLong
from pipeline.memory.events import Event
from schemas import topics
from schemas.common import BadMessage
from workers.encode.events import decode
from workers.encode.messages import Encoded, check_sizes, send
from workers.kafka.config import KafkaSettings
from workers.kafka.dead_letters import dead_letter
from workers.kafka.producer import Producer
from workers.observe import log, metrics, tracing
from workers.runtime.loading import encoder_of, kept_objects
from workers.runtime.signals import Stop
from workers.runtime.worker import Done, Worker

PIECE_BYTES = 32 * 1024
"""Bytes of text that are encoded together. A larger piece fills the model's batches better, and takes longer to stop."""
BATCH_S = 4.0
"""Seconds after which no further piece is begun."""


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
        self._alone = alone
        self._encoder = encoder_of(self._model, self._device, log.line)

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
            send(self._producer, self._partitions, _observed(taken, since), self._encoder.encoder_id)
            end += len(piece)
        self._producer.flush_or_raise()
        offsets = {partition: record.offset + 1 for partition, record in waiting[:end]}
        fields: dict[str, object] = {"facts": facts, "dead_letters": refused}
        return Done(fields, offsets if end < len(waiting) else None)

    def _decode_piece(self, records: Iterable[Any]) -> list[Waiting | BadMessage]:
        """Decode the first records, until their texts have PIECE_BYTES; the error for a record that is not valid."""
        decoded: list[Waiting | BadMessage] = []
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

    def _encode(self, piece: Sequence[Waiting | BadMessage]) -> list[Sequence[Event] | BadMessage]:
        """The events or the error of each record of a piece, in order. Raises Stopped."""
        texts = [fact.text for d in piece if isinstance(d, Waiting) for fact in d.facts]
        encodings = iter(self._encoder.encode_each(texts, self._stop.is_set))
        return [d if isinstance(d, BadMessage) else self._events(d, encodings) for d in piece]

    def _events(
        self, decoded: Waiting, encodings: Iterator[FactEncoding | TooLong]
    ) -> Sequence[Event] | BadMessage:
        try:
            events = events_of(decoded, encodings, self._encoder.frequencies.max_nll)
            check_sizes(events, self._settings)
        except BadMessage as error:
            return error
        return events

    def _refuse(self, record: Any, error: BadMessage) -> None:
        assert self._producer is not None
        dead_letter(self._producer, record, error.reason, str(error), self.name, datetime.now(UTC))
        tracing.stage("encode", record, tracing.now(), error=error.reason)


def _observed(taken: Sequence[tuple[Any, Sequence[Event]]], since: int) -> list[Encoded]:
    """Count the events, and pair those of each record with the context of its span, which began at `since` (ns since the epoch)."""
    metrics.ENCODED.inc(sum(len(events) for _, events in taken))
    return [
        Encoded(events, tracing.stage("encode", record, since, {"factstream.namespace": events[0].namespace}))
        for record, events in taken
    ]
