"""What the APIs share: the data folder, and the client of the topics on the event loop."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from schemas.fact import FactMessage
from schemas.request import GenerationRequest
from schemas.response import GenerationResponse, ResponseDelta
from workers.client import LoopClient, Published, positions
from workers.client.positions import Positions
from workers.http.errors import ApiError, of_response
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

    async def stream(
        self, request: GenerationRequest, trace: str | None, recent: Positions | None = None
    ) -> AsyncGenerator[ResponseDelta | GenerationResponse, None]:
        """The deltas, and last the response, from a memory that has `recent`, by default what this machine published.

        If that is not decided in time, from the memory as it is. Raises as `LoopClient.stream` does.
        """
        end = datetime.now(UTC) + timedelta(seconds=self.client.timeout_s)
        request = request.model_copy(update={"deadline": end})
        if recent is None:
            recent = await self.recent(request)
        async with aclosing(self.client.stream(request, recent, trace)) as pieces:
            async for piece in pieces:
                if (
                    isinstance(piece, GenerationResponse)
                    and piece.error
                    and piece.error.reason == "behind"
                    and recent
                ):
                    break
                yield piece
            else:
                return
        async with aclosing(self.client.stream(request, None, trace)) as pieces:
            async for piece in pieces:
                yield piece

    async def ask(
        self, request: GenerationRequest, trace: str | None, recent: Positions | None = None
    ) -> GenerationResponse:
        """The response of `stream`. Raises ApiError if it is an error."""
        async with aclosing(self.stream(request, trace, recent)) as pieces:
            async for piece in pieces:
                if isinstance(piece, GenerationResponse):
                    return checked(piece)
        raise ApiError(503, "unavailable", "no answer")

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


def trace_of(request: Request) -> str | None:
    """The trace context of a request, for what is sent because of it."""
    found: str | None = request.scope.get("state", {}).get("trace")
    return found
