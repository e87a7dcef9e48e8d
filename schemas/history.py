"""The history: every decision of the writer, a row each, in Parquet. The truth of which the memory is a fold.

One folder a partition, one file a batch, numbered without gaps: `history/partition=3/0000000042.parquet`. Batches that follow
each other are merged later, `0000000032-0000000063.parquet`: where both stand there, the merged file counts. Version 2 has
the outcome `erased`, which a reader of version 1 would not take for a removal, and rows whose text was erased.
"""

import pyarrow as pa

_TIME = pa.timestamp("us", tz="UTC")

HISTORY = pa.schema(
    [
        pa.field("namespace", pa.string(), nullable=False),
        pa.field("outcome", pa.string(), nullable=False),  # see schemas.changelog.Outcome
        pa.field("memory_id", pa.string()),  # the memory made, reinforced, used or removed
        pa.field("nearest", pa.string()),  # the memory it was compared with
        pa.field("similarity", pa.float32()),  # to that memory, 0 to 1
        pa.field("text", pa.string()),
        pa.field("category", pa.string()),
        pa.field("source", pa.string()),
        pa.field("fact_id", pa.string()),
        pa.field("observed_at", _TIME),
        pa.field("published_at", _TIME),
        pa.field("decided_at", _TIME, nullable=False),
        pa.field("base_loss", pa.float32()),  # nats per token of the answer span
        pa.field("recall_loss", pa.float32()),
        pa.field("loss_delta", pa.float32()),
        pa.field("min_loss_delta", pa.float32()),  # the threshold that was applied
        pa.field("importance", pa.float32()),  # after the decision; log2, undecayed
        pa.field("gate", pa.float32()),  # of a use
        pa.field("request_id", pa.string()),  # of a use
        pa.field("encoder_id", pa.string()),
        pa.field("topic", pa.string(), nullable=False),  # what caused it: facts or memory-hits
        pa.field("topic_id", pa.string(), nullable=False),
        pa.field("partition", pa.int32(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("priors", pa.list_(pa.float32())),  # these three only where a memory was made
        pa.field("surprisals", pa.list_(pa.float32())),
        pa.field("vectors", pa.binary()),
    ],
    metadata={b"factstream.history": b"2"},
)

SNAPSHOT = pa.schema(
    [
        pa.field("memory_id", pa.string(), nullable=False),
        pa.field("namespace", pa.string(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("category", pa.string()),
        pa.field("source", pa.string()),
        pa.field("fact_id", pa.string()),
        pa.field("observed_at", _TIME, nullable=False),
        pa.field("learned_at", _TIME, nullable=False),
        pa.field("last_used_at", _TIME),
        pa.field("importance", pa.float64(), nullable=False),
        pa.field("uses", pa.int64(), nullable=False),
        pa.field("reinforced", pa.int64(), nullable=False),
        pa.field("loss_delta", pa.float64(), nullable=False),
        pa.field("encoder_id", pa.string(), nullable=False),
        pa.field("priors", pa.list_(pa.float32()), nullable=False),
        pa.field("surprisals", pa.list_(pa.float32()), nullable=False),
        pa.field("vectors", pa.binary(), nullable=False),
    ],
    metadata={b"factstream.snapshot": b"1"},
)
"""A memory a row, oldest first within its namespace: what the fold of a partition's history made."""

GENERATIONS = pa.schema(
    [
        pa.field("request_id", pa.string(), nullable=False),
        pa.field("namespaces", pa.list_(pa.string()), nullable=False),
        pa.field("prompt", pa.string(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("use_memory", pa.bool_(), nullable=False),
        pa.field("memory_ids", pa.list_(pa.string()), nullable=False),  # those retrieved, best first
        pa.field("gates", pa.list_(pa.float32()), nullable=False),
        pa.field("finish_reason", pa.string(), nullable=False),
        pa.field("error", pa.string()),
        pa.field("prompt_tokens", pa.int32()),
        pa.field("completion_tokens", pa.int32()),
        pa.field("queued_ms", pa.float32()),
        pa.field("generate_ms", pa.float32()),
        pa.field("answered_at", _TIME, nullable=False),
        pa.field("partition", pa.int32(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
    ],
    metadata={b"factstream.generations": b"1"},
)
