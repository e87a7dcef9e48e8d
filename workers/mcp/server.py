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
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.server.transport_security import TransportSecuritySettings
from mcp_types import ToolAnnotations

from schemas.common import DEFAULT_NAMESPACE
from workers.client import LoopClient
from workers.kafka.config import KafkaSettings
from workers.mcp.tools import Tools
from workers.memories.headers import NAMESPACE, namespace_in, valid_namespace
from workers.memories.service import Memories

PATH = "/mcp"
INSTRUCTIONS = (
    "A long-term memory. Search it before you answer what may depend on earlier conversations or on facts of this user or team; "
    "add what is worth remembering, one statement a call, with its subject named; update or delete what turns out to be wrong."
)

_READS = ToolAnnotations(read_only_hint=True, open_world_hint=False)
_ADDS = ToolAnnotations(read_only_hint=False, destructive_hint=False, open_world_hint=False)
_CHANGES = ToolAnnotations(read_only_hint=False, destructive_hint=True, open_world_hint=False)


def server(memories: Memories, namespace: str | None = None) -> MCPServer[Any]:
    """The server of these memories: of one namespace, or without one of that which a request's header names."""

    def space(context: Context[Any, Any]) -> str:
        named = namespace or namespace_in(context.headers or {})
        return DEFAULT_NAMESPACE if named is None else valid_namespace(named, f"the header {NAMESPACE}")

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


def over_http(memories: Memories) -> StreamableHTTPSessionManager:
    """Streamable HTTP, each POST by itself: `handle_request` is its application; enter `run()` while it serves.

    Who may call it, from which origin and with how large a body is for its caller to check.
    """
    served = server(memories)
    served.streamable_http_app(
        stateless_http=True, json_response=True,
        transport_security=TransportSecuritySettings(enable_dns_rebinding_protection=False),
    )  # fmt: skip
    return served.session_manager


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
