"""What the APIs share: the data folder, and the client of the topics on the event loop."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from starlette.concurrency import run_in_threadpool

from schemas.fact import FactMessage
from schemas.request import GenerationRequest
from schemas.response import GenerationResponse
from workers.client import LoopClient, Published, positions
from workers.client.positions import Positions
from workers.http.errors import of_response
from workers.kafka.config import KafkaSettings


@dataclass
class Shared:
    settings: KafkaSettings
    data: Path
    client: LoopClient

    async def recent(self, request: GenerationRequest) -> Positions:
        """What this machine published to the request's namespaces; nothing for a request without memory."""
        if not request.use_memory:
            return {}
        return await run_in_threadpool(positions.recall, self.data, request.namespaces)

    async def publish(self, facts: Sequence[tuple[str, FactMessage]], wait: bool = False) -> Published:
        """Publishes, and remembers it for requests that come after it."""
        published = await self.client.publish(facts, wait)
        await run_in_threadpool(positions.remember, self.data, published.after)
        return published


def checked(response: GenerationResponse) -> GenerationResponse:
    """The response. Raises ApiError if it is an error."""
    if response.error:
        raise of_response(response.error)
    return response
