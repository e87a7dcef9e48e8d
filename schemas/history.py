"""Columns of the history (every decision), of its checkpoints (the memory) and of the answers.

The history is the truth, and the memory is a fold over it. Each partition has a folder, each batch a file, numbered without
gaps: `history/partition=3/0000000042.parquet`. Compaction merges consecutive files into one such as
`0000000032-0000000063.parquet`; where both are present, the merged file counts. Version 2 added the outcome `erased`, which
a reader of version 1 would not treat as a removal, and rows whose text was erased. Version 3 added keys, rules and the outcomes
`restored` and `unknown`; the files of the versions before lack its columns, which are null in them.
"""

import pyarrow as pa

from schemas.fields import FACT, KEYED, MEASURED, SOURCE_OFFSET, TIME, WORDS, required

HISTORY = pa.schema(
    [
        pa.field("namespace", pa.string(), nullable=False),
        pa.field("outcome", pa.string(), nullable=False),  # see schemas.changelog.Outcome
        pa.field("rule", pa.string()),  # by which it was decided: see pipeline/decide/decide.py
        pa.field("memory_id", pa.string()),  # the memory learned, reinforced, used, removed or restored
        pa.field("nearest", pa.string()),  # the memory it was compared with
        pa.field("similarity", pa.float32()),  # to that memory, 0 to 1
        *FACT,
        pa.field("dated", TIME),  # the fact's own time, where it lies too far in the future to be taken
        pa.field("published_at", TIME),
        pa.field("decided_at", TIME, nullable=False),
        *MEASURED,
        pa.field("min_loss_delta", pa.float32()),  # the threshold that was applied
        pa.field("importance", pa.float32()),  # after the decision; log2, undecayed
        pa.field("gate", pa.float32()),  # of the outcome `used`
        pa.field("request_id", pa.string()),  # of the outcome `used`
        pa.field("encoder_id", pa.string()),
        pa.field("topic", pa.string(), nullable=False),  # of the record that caused it: facts or memory-hits
        *SOURCE_OFFSET,
        *WORDS,  # null unless a memory was learned
    ],
    metadata={b"factstream.history": b"3"},
)
"""One decision per row. Every reader refuses a version that it does not know."""

BEFORE_KEYS = pa.schema(field for field in HISTORY if field.name not in (*KEYED, "rule", "dated"))
"""The columns of versions 1 and 2."""

CHECKPOINT = pa.schema(
    [
        pa.field("memory_id", pa.string(), nullable=False),
        pa.field("namespace", pa.string(), nullable=False),
        *required(FACT, "text", "observed_at"),
        pa.field("learned_at", TIME, nullable=False),
        pa.field("last_used_at", TIME),
        pa.field("importance", pa.float64(), nullable=False),  # log2, undecayed
        pa.field("uses", pa.int64(), nullable=False),
        pa.field("reinforced", pa.int64(), nullable=False),
        pa.field("loss_delta", pa.float64(), nullable=False),
        pa.field("encoder_id", pa.string(), nullable=False),
        pa.field("superseded_by", pa.string()),  # null for a memory that speaks
        pa.field("rule", pa.string()),  # by which it was superseded
        *required(WORDS),
    ],
    metadata={b"factstream.snapshot": b"2"},
)
"""One memory per row: the fold of a partition's history. By namespace, the memories that speak, oldest first, then the
superseded ones in that order."""

GENERATIONS = pa.schema(
    [
        pa.field("request_id", pa.string(), nullable=False),
        pa.field("namespaces", pa.list_(pa.string()), nullable=False),
        pa.field("prompt", pa.string(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("use_memory", pa.bool_(), nullable=False),
        pa.field("memory_ids", pa.list_(pa.string()), nullable=False),  # the memories retrieved, best first
        pa.field("gates", pa.list_(pa.float32()), nullable=False),
        pa.field("finish_reason", pa.string(), nullable=False),
        pa.field("error", pa.string()),
        pa.field("prompt_tokens", pa.int32()),
        pa.field("completion_tokens", pa.int32()),
        pa.field("queued_ms", pa.float32()),
        pa.field("generate_ms", pa.float32()),
        pa.field("answered_at", TIME, nullable=False),
        pa.field("partition", pa.int32(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
    ],
    metadata={b"factstream.generations": b"1"},
)
"""One answer per row."""
