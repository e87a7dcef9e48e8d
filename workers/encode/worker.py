"""The encoder: facts in, measured facts out. Validates, measures, and sends what cannot be taken to the dead letters.

At least once: encodings are flushed before the facts' offsets are committed; the writer decides each fact once, by the
coordinates that travel with it. A batch is measured in pieces and ends after a few seconds, however long its texts are,
and at once when the worker is to stop: what is left of it is read again.
"""

import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.ingest.encoding import Stopped
from schemas import encoding as encodings
from schemas import topics
from schemas.common import BadMessage
from schemas.fact import Forget, decode_fact
from workers.kafka.clients import KafkaSettings, Producer, check_readable, dead_letter, partition_for
from workers.observe import metrics, tracing
from workers.runtime.loop import Done

ROWS = 64  # of one message
PIECE_BYTES = 32 * 1024  # of text measured at a time: the more, the fuller are the model's batches
MAX_MIN_LOSS_DELTA = 1e6  # nats; what 32 bits cannot hold would spoil the message for the other facts in it
BATCH_S = 4.0  # after which no further piece is begun


class EncoderWorker:
    name = "encoder"
    topics: Sequence[str] = (topics.FACTS,)

    def __init__(
        self, settings: KafkaSettings, model: str, device: str = "auto", stop: threading.Event | None = None
    ) -> None:
        """`stop` ends what is being measured: it would take a CPU longer than a worker may take to stop."""
        self._settings, self._model, self._device = settings, model, device
        self._stop = stop or threading.Event()
        self._producer: Producer | None = None
        self._topic_id = ""

    def load(self, alone: bool) -> None:
        from pipeline.ingest.encoder import Encoder

        self._encoder = Encoder.load(self._model, self._device)

    def start(self, consumer: Any, topic_ids: dict[str, str]) -> None:
        self._topic_id = topic_ids[topics.FACTS]
        self._partitions = len(consumer.partitions_for_topic(self._settings.topic(topics.FACTS)) or ())
        self._producer = self._settings.producer()

    def assigned(self, partitions: list[Any]) -> None: ...
    def revoked(self, partitions: list[Any]) -> None: ...
    def idle(self) -> None: ...

    def ready(self) -> dict[str, str | int]:
        return {"model": self._model}

    def close(self) -> None:
        if self._producer:
            self._producer.close()

    def process(self, records: dict[Any, list[Any]]) -> Done:
        assert self._producer is not None
        oldest = sorted(records, key=lambda partition: records[partition][0].timestamp)
        waiting = [(partition, record) for partition in oldest for record in records[partition]]
        started, begin, facts, bad = time.monotonic(), 0, 0, 0
        while begin < len(waiting) and (begin == 0 or time.monotonic() - started < BATCH_S):
            taken, refused, room, end = [], [], PIECE_BYTES, begin
            while end < len(waiting) and room > 0:
                record, end = waiting[end][1], end + 1
                try:
                    row = self._row(record)
                except BadMessage as bad_message:
                    refused.append((record, bad_message))
                else:
                    taken.append((record, row))
                    room -= len((row.get("text") or "").encode())
            try:
                rows = self._encode(taken)
            except Stopped:
                break
            for record, error in refused:
                self._refuse(record, error)
            facts, bad, begin = facts + len(rows), bad + end - begin - len(rows), end
            self._send(rows)
        self._producer.flush_or_raise()
        offsets = {partition: record.offset + 1 for partition, record in waiting[:begin]}
        return Done({"facts": facts, "dead_letters": bad}, offsets if begin < len(waiting) else None)

    def _encode(self, taken: list[tuple[Any, dict[str, Any]]]) -> list[dict[str, Any]]:
        """The rows, measured; those that cannot be go to the dead letters."""
        since = tracing.now()
        self._measure([row for _, row in taken if row["kind"] == "fact"])
        rows = []
        for record, row in taken:
            if row["kind"] == "fact" and not _finite(row):
                self._refuse(record, BadMessage("not-measurable", "the model's losses on it are not finite"))
            else:
                said = tracing.where(record) | {"factstream.namespace": row["namespace"]}
                row["trace"] = tracing.done("encode", tracing.of(record.headers), since, said)
                rows.append(row)
        metrics.ENCODED.inc(len(rows))
        return rows

    def _refuse(self, record: Any, error: BadMessage) -> None:
        assert self._producer is not None
        dead_letter(self._producer, record, error.reason, str(error), self.name, datetime.now(UTC))
        said = tracing.where(record)
        tracing.done("encode", tracing.of(record.headers), tracing.now(), said, error.reason)

    def _send(self, rows: list[dict[str, Any]]) -> None:
        assert self._producer is not None
        by_namespace: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            by_namespace.setdefault(row["namespace"], []).append(row)
        for begin in range(0, max(map(len, by_namespace.values()), default=0), ROWS):
            for namespace, own in by_namespace.items():
                if piece := own[begin : begin + ROWS]:
                    batch = pa.RecordBatch.from_pylist(piece, schema=encodings.FACT_ENCODINGS)
                    partition = partition_for(namespace, self._partitions)
                    value = encodings.encode_batch(batch)
                    headers = tracing.headers_of_rows([row["trace"] for row in piece])
                    self._producer.send(topics.FACT_ENCODINGS, value, namespace.encode(), partition, headers)
            # A producer that gives one record up may deliver the next. Of a namespace's facts the writer takes
            # none that is older than what it has decided: so no message is sent before the one ahead of it arrived.
            self._producer.flush_or_raise()

    def _row(self, record: Any) -> dict[str, Any]:
        check_readable(record)
        namespace, message = decode_fact(record.key, record.value)
        try:  # a producer writes what it likes there
            published = datetime.fromtimestamp(max(record.timestamp, 0) / 1000, UTC)
        except (ValueError, OverflowError, OSError):
            raise BadMessage(
                "invalid-timestamp", f"the Kafka timestamp {record.timestamp} is no time"
            ) from None
        row: dict[str, Any] = {
            "topic_id": self._topic_id, "partition": record.partition, "offset": record.offset,
            "namespace": namespace, "published_at": published, "observed_at": published,
            "encoder_id": self._encoder.encoder_id,
        }  # fmt: skip
        if isinstance(message, Forget):
            return row | {"kind": "erase" if message.erase else "forget", "forget": message.forget}
        if message.min_loss_delta is not None and abs(message.min_loss_delta) > MAX_MIN_LOSS_DELTA:
            raise BadMessage("invalid-field", f"min_loss_delta: more than {MAX_MIN_LOSS_DELTA:g} nats")
        if not self._encoder.fits(message.text):
            raise BadMessage("too-long", "the text has more tokens than the model takes")
        return row | {
            "kind": "fact", "text": message.text, "category": message.category, "source": message.source,
            "fact_id": message.fact_id, "observed_at": message.observed_at or published,
            "min_loss_delta": message.min_loss_delta,
        }  # fmt: skip

    def _measure(self, rows: list[dict[str, Any]]) -> None:
        texts = [row["text"] for row in rows]
        for row, e in zip(rows, self._encoder.encode(texts, self._stop.is_set), strict=True):
            row |= {
                "base_loss": e.base_loss, "recall_loss": e.recall_loss, "loss_delta": e.loss_delta,
                "priors": e.priors, "surprisals": e.surprisals, "vectors": e.vectors.tobytes(),
            }  # fmt: skip


def _finite(row: dict[str, Any]) -> bool:
    numbers = [row["base_loss"], row["recall_loss"], row["loss_delta"], *row["priors"], *row["surprisals"]]
    return bool(np.isfinite(numbers).all())
