"""A bulk job on Ray Data: a pool of actors encodes, on any number of machines and GPUs.

Ray tries again what fails, and the job is repeated whole if the driver ends: the encodings get their folder when all are there. Input and output
lie in folders that all machines see. Nothing here is needed on one machine: `factstream encode` is as fast there.
"""

import os
import shutil
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.encode.table import encode_table
from pipeline.files import atomic_file
from schemas.files.encoded import Job
from workers.bulk import job as jobs
from workers.bulk.source import files_of_records, scan

RECORDS, STAGING = "records", ".encodings-of-ray"
"""Folders of a job that runs: what Ray reads, and what it writes."""
ROWS = 256
"""Records that an actor encodes at once."""


@dataclass(frozen=True)
class Pool:
    """The actors of a job. `gpus`: of each; a share such as 0.5 lets two have one."""

    actors: int = 1
    gpus: float = 0.0


class EncoderActor:
    """A process with the model, which Ray starts."""

    def __init__(self, model: str, device: str) -> None:
        from pipeline.ingest.encoder import Encoder

        self._encoder = Encoder.load(model, device)

    def __call__(self, records: pa.Table) -> pa.Table:
        return encode_table(records, self._encoder)

    def encoder_id(self) -> str:
        return self._encoder.encoder_id


def encode(source_path: Path, out: Path, model: str, device: str, pool: Pool, now: datetime) -> Job:
    """Encodes a whole job on the cluster of RAY_ADDRESS, or on this machine where there is none.

    Raises ValueError, OSError, and RuntimeError where Ray gives up.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to Ray's makers
    import ray

    source, out = scan(source_path), out.absolute()
    ray.init(include_dashboard=False, ignore_reinit_error=True)
    try:
        resources = {"num_cpus": 1, "num_gpus": pool.gpus}
        # An actor tells, since the model in another precision, as a GPU may have it, is another encoder.
        teller: Any = ray.remote(**resources)(EncoderActor).remote(model, device)
        job = jobs.begin(out, source, ray.get(teller.encoder_id.remote()), now)
        ray.kill(teller)
        for folder in (RECORDS, STAGING):  # of a driver that was killed
            shutil.rmtree(out / folder, ignore_errors=True)
        if not (missing := jobs.missing(out, job)):
            return job
        if (out / jobs.ENCODINGS).exists():
            raise ValueError(f"{out}: was begun without Ray and lacks {len(missing)} files; go on without it")
        for number, records in files_of_records(source, job, lambda _: True):
            with atomic_file(out / RECORDS / f"{number:08d}.parquet", durable=False) as file:
                pq.write_table(records, file, compression="zstd")
        _encode_all(out, model, device, pool, resources)
        os.rename(out / STAGING, out / jobs.ENCODINGS)
        shutil.rmtree(out / RECORDS)
        return job
    finally:
        ray.shutdown()


def _encode_all(out: Path, model: str, device: str, pool: Pool, resources: dict[str, float]) -> None:
    from ray import data

    data.DataContext.get_current().execution_options.preserve_order = True  # `load` need not sort then
    records = data.read_parquet(str(out / RECORDS))
    encodings = records.map_batches(
        EncoderActor,
        fn_constructor_args=(model, device),
        batch_format="pyarrow",
        batch_size=ROWS,
        compute=data.ActorPoolStrategy(size=pool.actors),
        **resources,
    )
    encodings.write_parquet(str(out / STAGING))
