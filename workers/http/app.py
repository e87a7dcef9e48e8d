"""The application of `factstream serve`: the web page, and beside it the APIs.

Each API is a folder whose `routes` takes what all of them share and returns its list of routes. A new one is added in `app`.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from importlib.util import find_spec
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from workers.client import LoopClient
from workers.http import mem0, openai
from workers.http.errors import ApiError
from workers.http.routes import Site
from workers.http.shared import Shared
from workers.kafka.config import KafkaSettings
from workers.memories.service import Memories

APIS = ("/v1/", "/v2/", "/v3/", "/api/", "/mcp")
"""How the paths of the APIs begin. What is not there is answered in the shape of OpenAI."""

ANSWER_S = 120.0
"""Seconds that a request waits for its answer."""


def app(settings: KafkaSettings, data: Path) -> Starlette:
    site, shared = Site(settings, data), Shared(settings, data, LoopClient(settings, ANSWER_S))
    memories = Memories(shared.client, data)
    if find_spec("mcp"):
        from workers.http import mcp  # the extra

        tools, serving = mcp.routes(memories)
    else:
        tools, serving = [], nullcontext()

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with site.lifespan(), serving:
            yield
        shared.client.close()

    async def refused(request: Request, error: Exception) -> Response:
        if isinstance(error, HTTPException) and request.url.path.startswith(APIS):
            code = "not_found" if error.status_code == 404 else "method_not_allowed"
            message = f"there is no {request.method} {request.url.path[:200]}"
            return openai.problem(ApiError(error.status_code, code, message, headers=error.headers or {}))
        return await site.refused(request, error)

    made = Starlette(
        routes=[*openai.routes(shared), *mem0.routes(memories), *tools, *site.routes()],
        exception_handlers=site.exception_handlers() | {404: refused, 405: refused},
        lifespan=lifespan,
    )
    made.state.shared = shared
    return made
