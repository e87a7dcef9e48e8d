"""The encoder: facts in, measured facts out. Validates, measures, and sends what cannot be taken to the dead letters.

At least once: encodings are flushed before the facts' offsets are committed; the writer decides each fact once, by the
coordinates that travel with it.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from pipeline.encoding import Encoder
from schemas import encoding as encodings
from schemas import topics
from schemas.common import BadMessage
from schemas.fact import Forget, decode_fact
from workers.kafka import KafkaSettings, Producer, dead_letter, partition_for
from workers.loop import Done

ROWS = 64  # of one message


class EncoderWorker:
    name = "encoder"
    topics: Sequence[str] = (topics.FACTS,)

    def __init__(self, settings: KafkaSettings, model: str, device: str = "auto") -> None:
        self._settings, self._model = settings, model
        self._encoder = Encoder.load(model, device)
        self._producer: Producer | None = None
        self._topic_id = ""

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
        rows: list[dict[str, Any]] = []
        bad = 0
        for record in (r for partition in records.values() for r in partition):
            try:
                rows.append(self._row(record))
            except BadMessage as error:
                now = datetime.now(UTC)
                dead_letter(self._producer, record, error.reason, str(error), self.name, now)
                bad += 1
        self._measure([row for row in rows if row["kind"] == "fact"])
        by_namespace: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            by_namespace.setdefault(row["namespace"], []).append(row)
        for namespace, own in by_namespace.items():
            partition = partition_for(namespace, self._partitions)
            for i in range(0, len(own), ROWS):
                batch = pa.RecordBatch.from_pylist(own[i : i + ROWS], schema=encodings.FACT_ENCODINGS)
                value = encodings.encode_batch(batch)
                self._producer.send(topics.FACT_ENCODINGS, value, namespace.encode(), partition)
        self._producer.flush_or_raise()
        return Done({"facts": len(rows), "dead_letters": bad})

    def _row(self, record: Any) -> dict[str, Any]:
        namespace, message = decode_fact(record.key, record.value)
        published = datetime.fromtimestamp(max(record.timestamp, 0) / 1000, UTC)
        row: dict[str, Any] = {
            "topic_id": self._topic_id, "partition": record.partition, "offset": record.offset,
            "namespace": namespace, "published_at": published, "observed_at": published,
            "encoder_id": self._encoder.encoder_id,
        }  # fmt: skip
        if isinstance(message, Forget):
            return row | {"kind": "forget", "forget": message.forget}
        if not self._encoder.fits(message.text):
            raise BadMessage("too-long", "the text has more tokens than the model takes")
        return row | {
            "kind": "fact", "text": message.text, "category": message.category, "source": message.source,
            "fact_id": message.fact_id, "observed_at": message.observed_at or published,
            "min_loss_delta": message.min_loss_delta,
        }  # fmt: skip

    def _measure(self, rows: list[dict[str, Any]]) -> None:
        for row, e in zip(rows, self._encoder.encode([row["text"] for row in rows]), strict=True):
            row |= {
                "base_loss": e.base_loss, "recall_loss": e.recall_loss, "loss_delta": e.loss_delta,
                "priors": e.priors, "surprisals": e.surprisals, "vectors": e.vectors.tobytes(),
            }  # fmt: skip
