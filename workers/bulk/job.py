"""Folder of a bulk job: what identifies the job, and the files that its parts write.

    job.json                      schemas.files.encoded.Job
    encodings/00000042.parquet    the encodings of the records from 42 * rows_a_file on; of a job on Ray, files of any names

Whoever begins first makes `job.json`; a part with another input or another encoder is refused. A file is there when it is whole.
"""

import hashlib
import re
from datetime import datetime
from pathlib import Path
from typing import NamedTuple, Self

from pipeline.files import atomic_file
from schemas.common import BadMessage, decode, encode
from schemas.files.encoded import VERSION, Job
from workers.bulk.source import Source

JOB, ENCODINGS = "job.json", "encodings"
FEWEST_ROWS, MOST_ROWS, FILES = 256, 8192, 256
"""Rows of a file: at least, and at most; between them a job has so many files, which are what shards can share."""


class Shard(NamedTuple):
    """One of several parts of a job that run at the same time, each with every `of`th file."""

    number: int = 0
    of: int = 1

    @classmethod
    def parse(cls, text: str) -> Self:
        """The shard I/N, counted from 0, as Kubernetes counts the pods of a Job. Raises ValueError."""
        match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
        if not match or int(match[1]) >= int(match[2]):
            raise ValueError(f"--shard {text}: of 4 shards the first is 0/4 and the last 3/4")
        return cls(int(match[1]), int(match[2]))

    def has(self, file: int) -> bool:
        return file % self.of == self.number


def begin(out: Path, source: Source, encoder_id: str, now: datetime) -> Job:
    """The job of the folder, which is begun if it is new. Raises ValueError where the folder has another one; OSError."""
    identity = f"{VERSION}:{source.sha256}:{encoder_id}"
    job = Job(
        version=1,
        job_id=f"job-{hashlib.sha256(identity.encode()).hexdigest()[:32]}",
        encoder_id=encoder_id,
        rows=source.rows,
        rows_a_file=min(max(source.rows // FILES, FEWEST_ROWS), MOST_ROWS),
        published_at=now,
    )
    try:
        with atomic_file(out / JOB, exclusive=True) as file:
            file.write(encode(job))
    except FileExistsError:
        found = read(out)
        if found.job_id != job.job_id:
            what = "by another model" if found.rows == job.rows else "of another input"
            raise ValueError(f"{out}: has encodings {what}; take an empty folder") from None
        return found
    return job


def read(out: Path) -> Job:
    """The job of a folder. Raises ValueError where there is none; OSError."""
    try:
        return decode(Job, (out / JOB).read_bytes())
    except FileNotFoundError:
        raise ValueError(f"{out}: has no {JOB}, so it is not a folder of `factstream encode`") from None
    except BadMessage as error:
        raise ValueError(f"{out / JOB}: cannot be read: {error}") from None


def file_path(out: Path, number: int) -> Path:
    """The file with the encodings of a job's `number`th file of records."""
    return out / ENCODINGS / f"{number:08d}.parquet"


def missing(out: Path, job: Job) -> set[int]:
    """The numbers of the files that are not there yet. Ray gives its files other names, and all of them at once."""
    names = {path.name for path in (out / ENCODINGS).glob("*.parquet")}
    own = {number: file_path(out, number).name for number in range(-(-job.rows // job.rows_a_file))}
    if names - set(own.values()):
        return set()
    return {number for number, name in own.items() if name not in names}
