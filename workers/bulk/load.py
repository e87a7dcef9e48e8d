"""`factstream load`: the encodings of a job are sent to the writers, which decide them once.

The records are sent to `fact-encodings` in their order, and the id of the job stands in the place of the topic's, so the writer skips what it has decided:
a load that was stopped or killed is repeated whole. It keeps a little ahead of the writers, whose commits tell how far they are.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from schemas import topics
from schemas.common import BadMessage
from schemas.files.encoded import PARTITION
from workers.bulk import job as jobs
from workers.bulk.files import Record, Refused, records
from workers.client import ClientError
from workers.encode.messages import Encoded, check_sizes, send
from workers.kafka import TopicPartition
from workers.kafka.admin import ensure_topics, writable_partitions
from workers.kafka.config import KafkaSettings
from workers.kafka.dead_letters import dead_letter
from workers.kafka.offsets import committed
from workers.kafka.producer import Producer

WINDOW = 4_096
"""Records that are sent at once; the writers have decided all but the last window before the next one is sent."""
STALL_TIMEOUT_S = 60.0
"""How long a load waits while no writer commits anything."""
POLL_S = 0.1

Ends = dict[TopicPartition, int]
"""The offset after the last message of each partition."""


class Stopped(Exception):
    """The load was asked to stop; repeated, it goes on."""


@dataclass
class Loaded:
    """What a load sent."""

    job_id: str
    rows: int
    """Records of the job."""
    sent: int = 0
    refused: int = 0
    """Records that went to the dead letters: they could not be encoded, or are too large for this cluster."""


def load(
    settings: KafkaSettings,
    out: Path,
    stop: Callable[[], bool] = lambda: False,
    progress: Callable[[int, int], object] = lambda done, rows: None,
) -> Loaded:
    """Sends the encodings in a job's folder, and returns when the writers have decided all. `progress` gets the records so far.

    Raises ValueError where the job is not complete or not whole, Stopped, ClientError, KafkaError, KafkaUnavailable, OSError.
    """
    job = jobs.read(out)
    loaded = Loaded(job.job_id, job.rows)
    rest = records(out, job)
    with _connected(settings) as (producer, partitions, writers):
        before: Ends = {}
        while window := list(islice(rest, WINDOW)):
            ends = _send(producer, partitions, window, job.job_id, job.encoder_id, loaded)
            writers.wait(before, stop)
            before = ends
            progress(window[-1].offset + 1, job.rows)
        writers.wait(before, stop)
    return loaded


def _send(
    producer: Producer, partitions: int, window: list[Record], job_id: str, encoder_id: str, loaded: Loaded
) -> Ends:
    """Sends some records, those that were refused to the dead letters."""
    encoded: list[Encoded] = []
    for record in window:
        if isinstance(record.content, Refused):
            _refuse(producer, job_id, record, record.content, loaded)
            continue
        try:
            check_sizes(record.content, producer.settings)
            encoded.append(Encoded(record.content, None))
        except BadMessage as error:
            _refuse(producer, job_id, record, Refused(None, error.reason, str(error)), loaded)
    producer.flush_or_raise()
    ends: Ends = {}
    for message in send(producer, partitions, encoded, encoder_id):
        ends[TopicPartition(message.topic, message.partition)] = message.offset + 1
    loaded.sent += len(encoded)
    return ends


def _refuse(producer: Producer, job_id: str, record: Record, refused: Refused, loaded: Loaded) -> None:
    """Sends a dead letter of the job: its id is named in the place of a topic, since no topic has the record."""
    place = SimpleNamespace(
        topic=job_id, partition=PARTITION, offset=record.offset, key=None, value=refused.value, headers=[]
    )
    dead_letter(producer, place, refused.reason, refused.error, "load", datetime.now(UTC))
    loaded.refused += 1


class _Writers:
    """How far the writers have committed what was sent."""

    def __init__(self, settings: KafkaSettings, admin: Any) -> None:
        self._group, self._admin = settings.group("writer"), admin

    def wait(self, ends: Ends, stop: Callable[[], bool]) -> None:
        """Returns once these messages are decided. Raises Stopped, and ClientError if no writer goes on."""
        last, since = -1, time.monotonic()
        while (behind := self._behind(ends)) > 0:
            if stop():
                raise Stopped
            if behind != last:
                last, since = behind, time.monotonic()
            elif time.monotonic() - since > STALL_TIMEOUT_S:
                raise ClientError(
                    f"{behind} messages are undecided, and none was decided for {STALL_TIMEOUT_S:.0f} s: is a writer "
                    "running? The same command goes on."
                )
            time.sleep(POLL_S)
        if stop():
            raise Stopped

    def _behind(self, ends: Ends) -> int:
        at = committed(self._admin, self._group, list(ends)) if ends else {}
        return sum(max(0, end - max(0, at[tp])) for tp, end in ends.items())


@contextmanager
def _connected(settings: KafkaSettings) -> Iterator[tuple[Producer, int, _Writers]]:
    """A producer, the partition count, and the writers' progress."""
    ensure_topics(settings, (topics.FACT_ENCODINGS, topics.DEAD_LETTERS))
    with closing(settings.admin()) as admin, closing(settings.producer()) as producer:
        partitions = writable_partitions(admin, settings.topic(topics.FACT_ENCODINGS))
        yield producer, partitions, _Writers(settings, admin)
