"""Records of the topic `facts`, decoded: their messages wait until the encoder has measured the texts."""

from datetime import UTC, datetime
from typing import Any

from pipeline.encode.events import Waiting, waiting
from pipeline.memory.events import SourceOffset
from schemas import topics
from schemas.common import BadMessage
from schemas.fact import decode_fact
from workers.kafka.consumer import check_readable
from workers.kafka.first_offset import first_offset
from workers.observe import metrics


def decode(record: Any, topic_id: str, strict: bool, embedded: bool = False) -> Waiting:
    """A record of the topic. `strict`: refuse unknown fields, which otherwise are counted. Raises BadMessage.

    `embedded`: it is on the embedded broker, where it may have been published again.
    """
    check_readable(record)
    namespace, message, unknown = decode_fact(record.key, record.value, strict)
    metrics.UNKNOWN_FIELDS.inc(len(unknown))
    try:  # a producer may write any number there
        published_at = datetime.fromtimestamp(max(record.timestamp, 0) / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        raise BadMessage(
            "invalid-timestamp", f"the Kafka timestamp {record.timestamp} is not a time"
        ) from None
    first = first_offset(record.headers, topic_id) if embedded else None
    cause = first or SourceOffset(topics.FACTS, topic_id, record.partition, record.offset)
    return waiting(namespace, message, published_at, cause)
