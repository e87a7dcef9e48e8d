"""The MCP server: the tools with their hints, over standard input and output or over HTTP.

The host of an assistant chooses the namespace: on the command line, or in a header of each request.
"""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import anyio
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.transport_security import TransportSecuritySettings
from mcp_types import ToolAnnotations
from pydantic import TypeAdapter, ValidationError
from starlette.routing import Route

from schemas.common import DEFAULT_NAMESPACE, Namespace
from workers.client import LoopClient
from workers.kafka.config import KafkaSettings
from workers.mcp.tools import Tools
from workers.memories.headers import NAMESPACE, namespace_in
from workers.memories.service import Memories

PATH = "/mcp"
MAX_BODY_BYTES = 1024 * 1024
INSTRUCTIONS = (
    "A long-term memory. Search it before you answer what may depend on earlier conversations or on facts of this user or team; "
    "add what is worth remembering, one statement a call, with its subject named; update or delete what turns out to be wrong."
)

_READS = ToolAnnotations(read_only_hint=True, open_world_hint=False)
_ADDS = ToolAnnotations(read_only_hint=False, destructive_hint=False, open_world_hint=False)
_CHANGES = ToolAnnotations(read_only_hint=False, destructive_hint=True, open_world_hint=False)
_NAMESPACE: TypeAdapter[str] = TypeAdapter(Namespace)


def server(memories: Memories, namespace: str | None = None) -> MCPServer[Any]:
    """The server of these memories: of one namespace, or without one of that which a request's header names."""

    def space(context: Context[Any, Any]) -> str:
        named = namespace or namespace_in(context.headers or {})
        try:
            return DEFAULT_NAMESPACE if named is None else _NAMESPACE.validate_python(named)
        except ValidationError:
            raise ToolError(f"the header {NAMESPACE} is not a namespace") from None

    if (
        not logging.root.handlers
    ):  # or the package would set up the log of the whole process: see observe/log.py
        logging.root.addHandler(logging.NullHandler())
    tools = Tools(memories, space)
    served = MCPServer[Any](
        "factstream",
        "factstream",
        instructions=INSTRUCTIONS,
        version=version("factstream"),
        log_level="WARNING",
    )
    for tool in (tools.search_memories, tools.get_memories, tools.ask, tools.why):
        served.add_tool(tool, annotations=_READS)
    served.add_tool(tools.add_memory, annotations=_ADDS)
    for change in (tools.update_memory, tools.delete_memory, tools.delete_all_memories):
        served.add_tool(change, annotations=_CHANGES)
    return served


def over_http(memories: Memories) -> tuple[Route, MCPServer[Any]]:
    """The route of streamable HTTP, each request by itself, and its server: enter `session_manager.run()` while it serves.

    Who may call it, and from which origin, is for the application to check.
    """
    served = server(memories)
    app = served.streamable_http_app(
        streamable_http_path=PATH, stateless_http=True, json_response=True, max_request_body_size=MAX_BODY_BYTES,
        transport_security=TransportSecuritySettings(enable_dns_rebinding_protection=False),
    )  # fmt: skip
    (route,) = [one for one in app.routes if isinstance(one, Route)]
    return route, served


def over_stdio(settings: KafkaSettings, data: Path, namespace: str) -> None:
    """Serves standard input and output until the host closes them. Nothing else is written to standard output."""
    anyio.run(_stdio, settings, data, namespace)


async def _stdio(settings: KafkaSettings, data: Path, namespace: str) -> None:
    async with _memories(settings, data) as memories:
        await server(memories, namespace).run_stdio_async()


@asynccontextmanager
async def _memories(settings: KafkaSettings, data: Path) -> AsyncIterator[Memories]:
    client = LoopClient(settings)
    try:
        yield Memories(client, data)
    finally:
        client.close()
