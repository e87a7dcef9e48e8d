"""The address of MCP: the package's own application, behind what every endpoint has.

Only POST is there: no request has a session, so there is nothing to listen to or to end. Errors before the protocol are
JSON-RPC's, without an id.
"""

from contextlib import AbstractAsyncContextManager

from mcp_types import INTERNAL_ERROR, INVALID_REQUEST
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute
from starlette.types import ASGIApp

from workers.http.endpoint import route
from workers.http.errors import ApiError
from workers.mcp.server import PATH, over_http
from workers.memories.service import Memories


def routes(memories: Memories) -> tuple[list[BaseRoute], AbstractAsyncContextManager[None]]:
    """The routes, and what has to be entered while they are served."""
    served = over_http(memories)

    async def handler(_: Request) -> ASGIApp:
        return served.handle_request

    return [route("POST", PATH, handler, problem)], served.run()


def problem(error: ApiError) -> Response:
    """An error as MCP's clients read it."""
    code = INTERNAL_ERROR if error.status >= 500 else INVALID_REQUEST
    body = {"code": code, "message": error.message, "data": {"reason": error.code}}
    return JSONResponse({"jsonrpc": "2.0", "id": None, "error": body}, error.status, dict(error.headers))
