"""Files of a bulk job: records of `facts` as a table, their encodings, and what identifies the job.

A job encodes a set of records outside of the stream, on any machines, in any order. Each record has the coordinates that Kafka
would have given it, so that the writer decides it once: the id of the job in the place of the topic's, the partition 0, and its
number in the input as the offset. A namespace's records are all in that one log, whatever the partitions of a cluster are.
"""

from typing import Annotated, Literal

import pyarrow as pa
from pydantic import Field

from schemas.common import Message, Timestamp
from schemas.encoding import FACT_ENCODINGS
from schemas.fields import SOURCE_OFFSET, TIME

VERSION = 1
PARTITION = 0
"""Partition of every record of a job."""
REFUSED = "refused"
"""The kind of a row that holds a record which could not be encoded. `fact-encodings` has no such rows."""

FACT_RECORDS = pa.schema(
    [
        *SOURCE_OFFSET,
        pa.field("published_at", TIME, nullable=False),  # in the place of the Kafka timestamp
        pa.field("value", pa.binary()),  # a message as on the topic `facts`, which names its namespace
    ]
)
"""Records that wait for their encodings."""

ENCODED = pa.schema(
    [
        *FACT_ENCODINGS,
        pa.field("reason", pa.string()),  # these three: of the kind REFUSED; null in the other rows
        pa.field("error", pa.string()),
        pa.field("value", pa.binary()),  # the record as it was
    ]
)
"""The encodings of records, and the records that were refused, with the reason. Every record has one row or more."""


class Job(Message):
    """What all parts of a job share, in its folder's `job.json`."""

    version: Literal[1]
    job_id: Annotated[str, Field(pattern=r"^job-[0-9a-f]{32}$")] = Field(
        description="From the bytes of the input and the encoder: the same job again has the same id."
    )
    encoder_id: Annotated[str, Field(pattern=r"^[0-9A-Za-z_-]{1,64}$")]
    rows: Annotated[int, Field(ge=0)] = Field(description="Records of the input.")
    rows_a_file: Annotated[int, Field(ge=1)]
    published_at: Timestamp = Field(description="Of every record: when the job began.")
