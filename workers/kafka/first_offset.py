"""The header by which a fact that is published again keeps its first source offset.

Only what the embedded broker lost is published again (`workers.runtime.stack.unread`), so only its encoder heeds the header: on a cluster
any producer could set it.
"""

import re
from collections.abc import Iterable

from pipeline.memory.events import SourceOffset
from schemas.topics import FACTS

HEADER = "factstream.first-offset"
_VALUE = re.compile(rb"([0-9A-Za-z_-]{1,64})/([0-9]{1,9})/([0-9]{1,18})")

Headers = Iterable[tuple[str, bytes | None]]


def first_offset(headers: Headers, topic_id: str) -> SourceOffset | None:
    """Where a fact was at first; None unless it was published again.

    `topic_id`: of the topic that it is on now. A header that names this one is void: its offset would make the writer pass over
    facts that are still to come.
    """
    value = next((value for name, value in headers if name == HEADER), None)
    match = _VALUE.fullmatch(value or b"")
    if match is None or (first := match[1].decode()) == topic_id:
        return None
    return SourceOffset(FACTS, first, int(match[2]), int(match[3]))


def with_first_offset(
    headers: Headers, topic_id: str, partition: int, offset: int
) -> list[tuple[str, bytes | None]]:
    """The headers of a fact with its first source offset, which is this one unless it has been published again before.

    It comes before the others, of which a consumer reads a limited number.
    """
    first = first_offset(headers, topic_id) or SourceOffset(FACTS, topic_id, partition, offset)
    value = f"{first.topic_id}/{first.partition}/{first.offset}".encode()
    return [(HEADER, value), *(pair for pair in headers if pair[0] != HEADER)]
