"""Dead letters as rows for queries: the fields of their headers, and the original bytes."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from pipeline.history.layout import DEAD_LETTERS_FOLDER
from pipeline.store.store import Store
from schemas import topics
from schemas.common import BadMessage
from schemas.dead_letter import MAX_ERROR_CHARS, decode_headers
from workers.kafka.consumer import check_readable


def keep(store: Store, topic_id: str, records: Sequence[Any], worker: str, now: datetime) -> None:
    """Write consecutive records of one partition into one file of the store. Idempotent. Raises HistoryError."""
    first, last = records[0], records[-1]
    name = f"{topic_id}-{first.partition}-{first.offset}-{last.offset}"
    store.add(DEAD_LETTERS_FOLDER, [_row(record, worker, now) for record in records], name)


def _row(record: Any, worker: str, now: datetime) -> dict[str, Any]:
    """The columns of schemas.dead_letter.DEAD_LETTERS.

    A record without valid headers gets a row about itself: a dead letter about it would go to the same topic.
    """
    try:
        check_readable(record)
        row = decode_headers(record.headers)
    except BadMessage as error:
        row = {
            "topic": topics.DEAD_LETTERS, "partition": record.partition, "offset": record.offset,
            "reason": error.reason, "error": str(error)[:MAX_ERROR_CHARS], "worker": worker, "time": now,
        }  # fmt: skip
    return row | {"key": record.key, "value": record.value}
