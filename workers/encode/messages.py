"""Messages of fact-encodings: events in order, each message after the one before it has arrived.

The encoder worker and `factstream load` share it: the writer relies on this order (pipeline/memory/bank.py, `is_decided`).
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import Any, NamedTuple

from pipeline.memory.codec import facts_to_batch
from pipeline.memory.events import Event, NewFact
from schemas import topics
from schemas.common import BadMessage
from schemas.encoding import encode_batch
from workers.kafka.config import KafkaSettings
from workers.kafka.partitioner import partition_for
from workers.kafka.producer import BATCH_OVERHEAD_BYTES, Producer
from workers.observe import tracing

ROWS = 64
"""Most rows of one message, unless one record alone has more."""
MESSAGE_BYTES = 1024 * 1024
"""Bytes of text and states after which a message ends: FACTSTREAM_MAX_RECORD_BYTES may make the topics small."""


class Encoded(NamedTuple):
    """The events of one record, in order, and the context of its trace. They travel in one message."""

    events: Sequence[Event]
    trace: str | None


def send(producer: Producer, partitions: int, encoded: Sequence[Encoded], encoder_id: str) -> list[Any]:
    """Sends events, each with the trace context of its record, in messages of one namespace. Returns their `RecordMetadata`.

    encoder_id: of the requests. Raises KafkaError.
    """
    by_namespace = defaultdict(list)
    for record in encoded:
        by_namespace[record.events[0].namespace].append(record)
    acknowledged = []
    for messages in zip_longest(*(_messages(own) for own in by_namespace.values())):
        for namespace, some in zip(by_namespace, messages, strict=True):
            if some:
                events = [event for record in some for event in record.events]
                traces = [record.trace for record in some for _ in record.events]
                value = encode_batch(facts_to_batch(events, encoder_id))
                partition = partition_for(namespace, partitions)
                headers = tracing.headers_of_rows(traces)
                producer.send(topics.FACT_ENCODINGS, value, namespace.encode(), partition, headers)
        # A producer that gives up one record may still deliver the next, and the writer skips a fact with a lower
        # offset than one it has decided. So a message is sent only after the one before it has arrived.
        acknowledged += producer.flush_or_raise()
    return acknowledged


def check_sizes(events: Sequence[Event], settings: KafkaSettings) -> None:
    """Raises BadMessage unless each memory will fit into a record of the changelog, where its states are in base64, and
    all of them together into one of fact-encodings."""
    sizes = [_state_bytes(event) for event in events]
    for size, name in (
        (max(sizes) * 4 // 3, topics.MEMORY_CHANGELOG),
        (sum(sizes), topics.FACT_ENCODINGS),
    ):
        if size > (limit := settings.max_bytes(name)) - 2 * BATCH_OVERHEAD_BYTES:
            raise BadMessage(
                "too-large", f"its memory has {size} bytes; FACTSTREAM_MAX_RECORD_BYTES allows {limit}"
            )


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
