"""The routing of requests to the generator that holds their memories: FACTSTREAM_REPLICA=partitioned.

A request belongs in the partition of its namespace. Clients of this project send it there. Other clients need not know: a
request elsewhere is sent on once, with a header that keeps it from going round.
"""

from typing import Any

from schemas import topics
from schemas.common import BadMessage
from schemas.reply import ReturnAddress
from schemas.request import GenerationRequest
from workers.kafka.consumer import MAX_HEADERS
from workers.kafka.errors import RecordTooLarge
from workers.kafka.partitioner import partitions_for
from workers.kafka.producer import Producer
from workers.observe import metrics

FORWARDED = "factstream.forwarded"
"""The header of a request that was sent on: the partition and the offset where it was."""


def forward(
    producer: Producer, record: Any, address: ReturnAddress, request: GenerationRequest, partitions: int
) -> bool:
    """Sends a request on if another partition has its memories, and tells whether it did.

    Its value, headers and time stay; its key becomes its request_id, which may have come from its place. Raises BadMessage
    for one that no partition alone can answer, or that was sent on before.
    """
    homes = partitions_for(request.remembered, partitions)
    if homes <= {record.partition}:
        return False
    if len(homes) > 1:
        raise BadMessage(
            "namespaces-apart",
            f"the memories of {', '.join(request.namespaces)} are in partitions of different generators here "
            "(FACTSTREAM_REPLICA=partitioned); ask for each namespace by itself",
        )
    (home,) = homes
    if any(name == FORWARDED for name, _ in record.headers) or len(record.headers) >= MAX_HEADERS:
        raise BadMessage(
            "wrong-partition",
            f"it is in partition {record.partition} and belongs in {home}, and cannot be sent on again",
        )
    headers = [*record.headers, (FORWARDED, f"{record.partition}:{record.offset}".encode())]
    time = record.timestamp if record.timestamp >= 0 else None
    try:
        producer.send(
            topics.GENERATION_REQUESTS, record.value, address.request_id.encode(), home, headers, time
        )
    except RecordTooLarge as error:
        raise BadMessage("too-large", str(error)) from None
    metrics.FORWARDED.inc()
    return True
