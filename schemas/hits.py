"""`memory-hits`: the memories that took part in answers. The key is the namespace.

The writer adds each use to the memory's importance, which decides what is evicted.
"""

from typing import Annotated

from pydantic import Field

from schemas.common import Finite, MemoryId, Message, Namespace, RequestId, Timestamp


class Hit(Message):
    memory_id: MemoryId
    gate: Annotated[Finite, Field(gt=0, le=1)]


class MemoryHits(Message):
    """The memories of one namespace that took part in one answer."""

    namespace: Namespace
    request_id: RequestId
    answered_at: Timestamp
    hits: Annotated[list[Hit], Field(min_length=1, max_length=64)]
