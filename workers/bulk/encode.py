"""`factstream encode`: the encodings of the facts in files, written to files, without a broker.

A part may be stopped or killed at any moment: the same command goes on with the files that are not there yet. The number of shards
may differ then, since a file has the same rows whoever writes it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.encode.table import encode_table
from pipeline.files import atomic_file
from pipeline.ingest.encoder import Encoder
from schemas.files.encoded import REFUSED, Job
from workers.bulk import job as jobs
from workers.bulk.job import Shard
from workers.bulk.source import files_of_records, scan

PIECE = 256
"""Records that are encoded at once."""
MAX_REASONS = 20
"""Refused records whose reasons are kept."""


@dataclass
class Done:
    """What one part of a job did."""

    job: Job
    rows: int = 0
    """Records of this shard."""
    before: int = 0
    """Records that were encoded before."""
    refused: int = 0
    """Records that were refused now; they are in the files, with the reason."""
    reasons: list[str] = field(default_factory=list)
    left_out: tuple[str, ...] = ()


def encode(
    source_path: Path,
    out: Path,
    encoder: Encoder,
    now: datetime,
    shard: Shard = Shard(),  # noqa: B008
    stop: Callable[[], bool] = lambda: False,
    progress: Callable[[int, int], object] = lambda done, rows: None,
) -> Done:
    """Encodes what a shard lacks. `progress` gets its records so far, and all of them.

    Raises `Stopped` soon after `stop` returns True, ValueError and OSError.
    """
    source = scan(source_path)
    job = jobs.begin(out, source, encoder.encoder_id, now)
    files = range(-(-job.rows // job.rows_a_file))
    sizes = {n: min(job.rows_a_file, job.rows - n * job.rows_a_file) for n in files if shard.has(n)}
    missing = jobs.missing(out, job) & sizes.keys()
    done = Done(job, sum(sizes.values()), left_out=source.left_out)
    done.before = done.rows - sum(sizes[n] for n in missing)
    so_far = done.before
    progress(so_far, done.rows)
    if not missing:
        return done
    for number, records in files_of_records(source, job, missing.__contains__):
        tables = []
        for begin in range(0, records.num_rows, PIECE):
            piece = records.slice(begin, PIECE)
            tables.append(encode_table(piece, encoder, stop))
            so_far += piece.num_rows
            progress(so_far, done.rows)
        table = pa.concat_tables(tables)
        with atomic_file(jobs.file_path(out, number)) as file:
            pq.write_table(table, file, compression="zstd", write_page_checksum=True)
        _count_refused(done, table)
    return done


def _count_refused(done: Done, table: pa.Table) -> None:
    """Counts the refused records of a file, and keeps the first reasons."""
    refused = table.filter(pc.equal(table["kind"], REFUSED)).select(["offset", "error"])
    done.refused += refused.num_rows
    for row in refused.slice(0, MAX_REASONS - len(done.reasons)).to_pylist():
        done.reasons.append(f"row {row['offset'] + 1}: {row['error']}")
