"""`fact-encodings`: facts with the numbers that the encoder measured, in Arrow IPC.

A message is one record batch, of one namespace. Each row has the source offset (topic_id, partition, offset) of its record
on `facts`, so that the writer decides each record once: the facts of a conversation, which have the same, are in one message.
A row of another kind than FACT_KINDS is a request, in order with the facts, or says that a conversation stated nothing.
"""

import struct

import pyarrow as pa
import pyarrow.compute as pc

from schemas.common import BadMessage
from schemas.fields import FACT, KEYED, MEASURED, SOURCE_OFFSET, TIME, WORDS, with_columns

MAX_ROWS = 256
"""Most rows of a message."""
KINDS = (
    "fact",
    "stated",
    "forget",
    "erase",
    "forget_key",
    "erase_key",
    "forget_all",
    "erase_all",
    "restore",
    "nothing",
)
"""The kinds of rows: a fact; one of several that a record has stated, so that a writer from before conversations refuses the
message, where it would decide the first one only; a request to forget one memory, what a key states or a namespace, or one to
restore a memory; or nothing, where a conversation stated nothing: it is decided, too, so that nobody waits for it.

A request that begins with `erase` takes the text out of the history, too.
"""
FACT_KINDS = KINDS[:2]
"""The kinds of rows with a fact."""
MAX_VECTOR_BYTES = 1024 * 1024
"""Most bytes of one fact's vectors."""

FACT_ENCODINGS = pa.schema(
    [
        pa.field("kind", pa.string(), nullable=False),  # one of KINDS
        *SOURCE_OFFSET,
        pa.field("namespace", pa.string(), nullable=False),
        *FACT,  # the text is null except for a fact; observed_at is not null for a fact
        pa.field("published_at", TIME, nullable=False),  # the Kafka timestamp
        pa.field("min_loss_delta", pa.float32()),
        pa.field("forget", pa.string()),  # the memory_id to forget or to restore; else null
        pa.field("encoder_id", pa.string(), nullable=False),
        *MEASURED,
        *WORDS,
    ]
)

_BEFORE_KEYS = pa.schema(
    field.with_nullable(False) if field.name == "observed_at" else field
    for field in FACT_ENCODINGS
    if field.name not in KEYED
)
"""The columns before facts had keys: encodings that wait while the writer is upgraded."""


def encode_batch(batch: pa.RecordBatch) -> bytes:
    """`batch` as one Arrow IPC stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, FACT_ENCODINGS) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue())


def decode_batch(value: bytes | None) -> pa.RecordBatch:
    """The record batch of a message, with its schema and every buffer offset checked. Raises BadMessage.

    The batch is never larger than the message: a compressed body, which may declare any size, is refused.
    """
    if not value:
        raise BadMessage("empty", "the message has no value")
    try:
        reader = pa.ipc.MessageReader.open_stream(pa.py_buffer(value))
        first, second = reader.read_next_message(), reader.read_next_message()
        if first.type != "schema" or (schema := pa.ipc.read_schema(first)) not in (
            FACT_ENCODINGS,
            _BEFORE_KEYS,
        ):
            raise BadMessage("invalid-schema", "the columns are not those of fact-encodings")
        if second.type != "record batch":
            raise BadMessage("invalid-arrow", f"a {second.type} instead of the record batch")
        try:
            reader.read_next_message()
        except StopIteration:
            pass
        else:
            raise BadMessage("invalid-arrow", "more than one record batch in the message")
        if _is_compressed(second.metadata.to_pybytes()):
            raise BadMessage("invalid-arrow", "the record batch is compressed; leave compression to Kafka")
        batch = pa.ipc.read_record_batch(second, schema)
        if not 1 <= batch.num_rows <= MAX_ROWS:
            raise BadMessage("invalid-arrow", f"{batch.num_rows} rows; a message has 1 to {MAX_ROWS}")
        # An IPC message may declare offsets that point outside of its buffers.
        batch.validate(full=True)
        # A time may be outside of the years that Python has.
        for field in batch.schema:
            if field.type == TIME:
                pc.min_max(batch.column(field.name)).as_py()
    except BadMessage:
        raise
    except (
        pa.ArrowException, StopIteration, ValueError, OverflowError, OSError, EOFError, MemoryError, struct.error
    ) as error:  # fmt: skip
        raise BadMessage("invalid-arrow", f"not an Arrow IPC stream of one batch: {error}"[:300]) from None
    if schema != FACT_ENCODINGS:
        batch = with_columns(pa.Table.from_batches([batch]), FACT_ENCODINGS).to_batches()[0]
    for name in (field.name for field in FACT_ENCODINGS if not field.nullable):
        if batch.column(name).null_count:
            raise BadMessage("invalid-field", f"{name}: null")
    return batch


def _is_compressed(metadata: bytes) -> bool:
    """Whether the body of a record batch is compressed. Arrow's reader would decompress it to any size.

    pyarrow does not expose this, so the flatbuffer is read: RecordBatch.compression in Message.header (Message.fbs of the
    Arrow format). A table's vtable has the offset of each field, 0 if the field is absent.
    """

    def field(table: int, index: int) -> int:
        vtable = table - int(struct.unpack_from("<i", metadata, table)[0])
        if 4 + 2 * index >= struct.unpack_from("<H", metadata, vtable)[0]:
            return 0
        place = int(struct.unpack_from("<H", metadata, vtable + 4 + 2 * index)[0])
        return table + place if place else 0

    message = int(struct.unpack_from("<I", metadata)[0])
    header = field(message, 2)
    header += int(struct.unpack_from("<I", metadata, header)[0])
    return field(header, 3) != 0
