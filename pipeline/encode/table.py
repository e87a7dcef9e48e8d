"""Encoding of a table, which any engine can call: records of `facts` in, their encodings out.

It is a pure function: the same record gets the same rows whatever else is in the table, so a table may be cut, and its pieces
be encoded in any order, on any machines, and once more after a crash.
"""

from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.encode.events import Waiting, events_of, waiting
from pipeline.ingest.encoder import Encoder
from pipeline.ingest.encoding import FactEncoding, TooLong
from pipeline.memory.codec import facts_to_batch
from pipeline.memory.events import Event, SourceOffset
from schemas.common import BadMessage
from schemas.fact import decode_fact
from schemas.fields import with_columns
from schemas.files.encoded import ENCODED, REFUSED
from schemas.topics import FACTS


def encode_table(records: pa.Table, encoder: Encoder, stop: Callable[[], bool] = lambda: False) -> pa.Table:
    """The encodings of records (schemas.files.encoded.FACT_RECORDS), in the columns of ENCODED, by offset.

    A record that cannot be encoded becomes a row of the kind REFUSED with its bytes and the reason. Fields that a fact does not
    have are left out. Raises `Stopped` soon after `stop` returns True.
    """
    rows = records.to_pylist()
    decoded = [_decoded(row) for row in rows]
    texts = [fact.text for one in decoded if isinstance(one, Waiting) for fact in one.facts]
    encodings = iter(encoder.encode_each(texts, stop))
    events: list[Event] = []
    refused: list[dict[str, Any]] = []
    for row, one in zip(rows, decoded, strict=True):
        try:
            events += _events(one, encodings, encoder.frequencies.max_nll)
        except BadMessage as error:
            refusal = {"kind": REFUSED, "namespace": "", "reason": error.reason, "error": str(error)}
            refused.append(row | refusal | {"encoder_id": encoder.encoder_id})
    encoded = pa.Table.from_batches([facts_to_batch(events, encoder.encoder_id)])
    table = pa.concat_tables([with_columns(encoded, ENCODED), pa.Table.from_pylist(refused, ENCODED)])
    # The facts of a conversation have the same offset: the sort is stable, so they stay in their order.
    return table.take(pc.sort_indices(table["offset"]))


def _decoded(row: dict[str, Any]) -> Waiting | BadMessage:
    try:
        namespace, message, _ = decode_fact(None, row["value"])
        cause = SourceOffset(FACTS, row["topic_id"], row["partition"], row["offset"])
        return waiting(namespace, message, row["published_at"], cause)
    except BadMessage as error:
        return error


def _events(
    record: Waiting | BadMessage, encodings: Iterator[FactEncoding | TooLong], max_nll: float
) -> list[Event]:
    if isinstance(record, BadMessage):
        raise record
    return list(events_of(record, encodings, max_nll))
