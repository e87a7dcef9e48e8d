"""The history on disk: append, compaction, checkpoints and erasure of Parquet files."""
