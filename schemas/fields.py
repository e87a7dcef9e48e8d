"""Groups of Arrow fields from which the schemas of fact-encodings, history and checkpoints are built.

The columns of a fact are the same from the encoder to the memory, and pipeline/memory/codec.py reads and writes each column
by its name. So a plain field of a fact, such as `source`, is added in five files:

1. schemas/fact.py: the field of the message `Fact`, whose type the writer validates, too.
2. This file: its column, in `FACT`.
3. pipeline/memory/events.py: the attribute, in `Labels`.
4. pipeline/memory/record.py: its place in the packed memory; and in schemas/changelog.py, if replicas need it.
5. pipeline/query/views.py: its column in the view `memories`.

A new column needs a new version of the history and of the checkpoint in schemas/history.py, and a reader for files of the old
version.
"""

from collections.abc import Iterator, Sequence

import pyarrow as pa

Fields = Sequence[pa.Field]

TIME = pa.timestamp("us", tz="UTC")

SOURCE_OFFSET: Fields = (
    pa.field("topic_id", pa.string(), nullable=False),
    pa.field("partition", pa.int32(), nullable=False),
    pa.field("offset", pa.int64(), nullable=False),
)
"""The Kafka record that a row comes from. The topic's id changes when a broker is wiped and its offsets begin at 0 again."""

FACT: Fields = (
    pa.field("text", pa.string()),
    pa.field("category", pa.string()),
    pa.field("source", pa.string()),
    pa.field("fact_id", pa.string()),
    pa.field("key", pa.string()),  # of what it states
    pa.field("cardinality", pa.string()),  # "many"; otherwise the key has one value at a time
    pa.field("metadata", pa.string()),  # a JSON object
    pa.field("observed_at", TIME),  # the fact's own time, else the Kafka timestamp
    pa.field("valid_until", TIME),  # when it stops speaking; null: never
)
"""The fact as the upstream system stated it."""

KEYED = ("key", "cardinality", "metadata", "valid_until")
"""The columns of a fact that came with keys. Files and messages of before lack them."""

MEASURED: Fields = (
    pa.field("base_loss", pa.float32()),  # nats per token of the answer span
    pa.field("recall_loss", pa.float32()),  # the same, with the fact's own memory fused in
    pa.field("loss_delta", pa.float32()),  # base_loss - recall_loss
)
"""The losses of the whole fact, as the encoder measured them."""

WORDS: Fields = (
    pa.field("priors", pa.list_(pa.float32())),  # information of each word before any memory, nats
    pa.field("surprisals", pa.list_(pa.float32())),  # -log p of each word in the fact, nats
    pa.field("vectors", pa.binary()),  # uint8 [words, ceil(d / 4)]: pipeline/ingest/quantize.py
)
"""The numbers of each word, as the encoder measured them."""


def required(fields: Fields, *names: str) -> Iterator[pa.Field]:
    """The same fields, where the named ones, or all of them without names, take no nulls."""
    return (
        field.with_nullable(field.nullable and bool(names) and field.name not in names) for field in fields
    )


def with_columns(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table with the columns of the schema, in its order and with its metadata; a missing column is null."""
    columns = [
        table[field.name] if field.name in table.column_names else pa.nulls(table.num_rows, field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)
