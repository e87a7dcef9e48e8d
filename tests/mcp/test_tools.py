"""The tools by the package's own client: in this process, over HTTP, and over standard streams."""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock

import anyio
import pytest
from mcp.client import Client
from mcp.client.stdio import StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from mcp.server.mcpserver.exceptions import ToolError
from mcp.shared._httpx_utils import create_mcp_http_client
from starlette.datastructures import Headers

from tests.helpers.served import Served, call, served
from tests.http.conftest import serve
from workers.client import LoopClient
from workers.mcp.server import server
from workers.memories.headers import NAMESPACE
from workers.memories.service import Memories

TOOLS = {
    "add_memory", "search_memories", "get_memories", "update_memory", "delete_memory", "delete_all_memories", "ask", "why",
}  # fmt: skip


@pytest.fixture(scope="module")
def stack(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(llama, tmp_path_factory.mktemp("mcp")) as running:
        yield running


async def use(client: Any, tool: str, **arguments: Any) -> dict[str, Any]:
    """What a tool returns, as its schema says."""
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, result.content
    found: dict[str, Any] = result.structured_content
    return found


async def refusal(client: Any, tool: str, **arguments: Any) -> str:
    """The words of a tool's error."""
    result = await client.call_tool(tool, arguments)
    assert result.is_error
    text: str = result.content[0].text
    return text


async def live_through(client: Any, who: str) -> None:
    """What an assistant does with its memory."""
    assert {tool.name for tool in (await client.list_tools()).tools} == TOOLS
    text = f"The lamp of {who} is made of walnut."
    (added,) = (await use(client, "add_memory", text=text, category="rooms", metadata={"n": 1}))["results"]
    assert (added["event"], added["memory"]) == ("ADD", text)
    said = [{"role": "user", "name": who, "content": "I moved to Porto last year. How are you?"}]
    (moved,) = (await use(client, "add_memory", messages=said, expires="2099-12-31"))["results"]
    assert f"{who} moved to Porto" in moved["memory"]

    found = (await use(client, "search_memories", query="What is the lamp made of?", limit=2))["memories"]
    assert found[0]["id"] == added["id"] and found[0]["score"] > 0
    none = await use(client, "search_memories", query="What is the lamp made of?", metadata={"n": 2})
    assert none == {"memories": []}
    page = await use(client, "get_memories", page_size=1)
    assert (page["total"], page["pages"], page["memories"][0]["expires"]) == (2, 2, "2099-12-31")
    (one,) = (await use(client, "get_memories", category="rooms", contains="LAMP"))["memories"]
    assert one["memory"] == text

    changed = await use(
        client, "update_memory", memory_id=added["id"], text=f"The lamp of {who} is made of oak."
    )
    assert (changed["id"], changed["category"], changed["metadata"]) == (added["id"], "rooms", {"n": 1})
    answer = await use(client, "ask", question="What is the lamp made of?", max_tokens=4)
    why = await use(client, "why", question="What is the lamp made of?", max_tokens=4)
    assert why["answer"] == answer["answer"] == "".join(piece["text"] for piece in why["pieces"])
    assert added["id"] in {one["id"] for one in why["memories"]}
    assert [one for one in why["memories"] if one["gate"] > 0] == answer["memories"]

    assert "no memory has the id" in await refusal(client, "delete_memory", memory_id="0" * 32)
    assert "either text or messages" in await refusal(client, "add_memory")
    await use(client, "delete_memory", memory_id=added["id"])
    assert "no memory has the id" in await refusal(client, "update_memory", memory_id=added["id"], text="x")
    await refusal(client, "delete_all_memories")
    await use(client, "delete_all_memories", confirm=True)
    assert (await use(client, "get_memories"))["total"] == 0


def test_an_assistant_uses_its_memory_in_process(stack: Served) -> None:
    async def run() -> None:
        topics = LoopClient(stack.settings)
        async with Client(server(Memories(topics, stack.data), "inside")) as client:
            await live_through(client, "Ida")
        topics.close()

    anyio.run(run)


def test_an_assistant_uses_its_memory_over_http(stack: Served) -> None:
    async def run() -> None:
        async with Client(f"{stack.url}/mcp") as client:
            await live_through(client, "Ann")

    anyio.run(run)


def test_over_http_the_header_names_the_namespace_and_the_token_is_asked(stack: Served) -> None:
    """On a second server of the same stack, which asks for a token."""
    token = "a-token-of-the-server"
    guarded = serve(stack.settings, stack.data, token)
    url = f"{guarded.url}mcp"

    async def run() -> None:
        bearer = {"authorization": f"Bearer {token}"}
        ours = create_mcp_http_client(bearer | {"X-Factstream-Namespace": "ours"})
        theirs = create_mcp_http_client(bearer | {"X-Factstream-Namespace": "theirs"})
        async with Client(streamable_http_client(url, http_client=ours)) as client:
            await use(client, "add_memory", text="The office key lies under the mat.")
            assert (await use(client, "get_memories"))["total"] == 1
        async with Client(streamable_http_client(url, http_client=theirs)) as client:
            assert (await use(client, "get_memories"))["total"] == 0

    anyio.run(run)
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    assert call(guarded, "POST", "/mcp", body)[0] == 401
    guarded.end()


def test_an_assistant_uses_its_memory_over_stdio(stack: Served) -> None:
    """Nothing but the protocol is on standard output, or its client would fail."""
    command = ["-m", "workers.cli", "mcp", "--namespace", "stdio", "--data", str(stack.data)]
    where = [*command, "--bootstrap", stack.settings.bootstrap]
    parameters = StdioServerParameters(command=sys.executable, args=where)

    async def run() -> None:
        async with Client(parameters) as client:
            await live_through(client, "Bob")

    anyio.run(run)


def test_no_tool_reaches_the_memories_of_another_namespace(stack: Served) -> None:
    async def run() -> None:
        topics = LoopClient(stack.settings)
        memories = Memories(topics, stack.data)
        async with Client(server(memories, "hers")) as hers, Client(server(memories, "his")) as his:
            secret = "The safe of the house opens with 4711."
            (added,) = (await use(hers, "add_memory", text=secret))["results"]
            for tool, arguments in (
                ("search_memories", {"query": secret}),
                ("get_memories", {}),
                ("ask", {"question": secret, "max_tokens": 1}),
                ("why", {"question": secret, "max_tokens": 1}),
            ):
                assert (await use(his, tool, **arguments))["memories"] == []
            for tool in ("delete_memory", "update_memory"):
                more = {"text": "x"} if tool == "update_memory" else {}
                assert "no memory has the id" in await refusal(his, tool, memory_id=added["id"], **more)
            await use(his, "delete_all_memories", confirm=True)
            assert (await use(hers, "get_memories"))["total"] == 1
            assert (await use(his, "get_memories", namespace="hers"))["total"] == 0
        topics.close()

    anyio.run(run)


@pytest.mark.parametrize(
    ("header", "read"),
    [
        ({}, "all memories of 'default'"),
        ({NAMESPACE: "Zoë".encode().decode("latin-1")}, "all memories of 'Zoë'"),
        ({NAMESPACE: ""}, "a namespace has"),
        ({NAMESPACE: "\xff"}, "a lone surrogate"),
    ],
)
def test_a_header_is_read_as_the_other_apis_read_it(header: dict[str, str], read: str) -> None:
    """A wrong one is refused: it must not become another's namespace."""
    memories = AsyncMock(spec=Memories)
    tool = server(memories)._tool_manager.get_tool("delete_all_memories")
    assert tool is not None

    async def run() -> str:
        try:
            return str(await tool.run({"confirm": True}, SimpleNamespace(headers=Headers(header))))  # type: ignore[arg-type]
        except ToolError as error:
            return str(error)

    assert read in anyio.run(run)


def test_the_schemas_say_what_a_tool_takes_and_gives(tmp_path: Path, settings: Any) -> None:
    async def run() -> None:
        topics = LoopClient(settings)
        async with Client(server(Memories(topics, tmp_path), "any")) as client:
            for tool in (await client.list_tools()).tools:
                assert tool.description and tool.output_schema and tool.annotations
                assert "namespace" not in tool.input_schema["properties"]
                assert tool.annotations.read_only_hint == (
                    tool.name in ("search_memories", "get_memories", "ask", "why")
                )
            assert "search" in (client.instructions or "").lower()
            for name, arguments in (
                ("get_memories", {"page": 0}), ("get_memories", {"page_size": 10_000}), ("search_memories", {"query": ""}),
                ("search_memories", {"query": "x", "metadata": {"a": {"gt": [1]}}}), ("ask", {"question": "x" * 20_000}),
                ("delete_memory", {"memory_id": "x"}), ("add_memory", {"text": "x" * 9000}), ("no_such_tool", {}),
            ):  # fmt: skip
                assert await refusal(client, name, **arguments)
        topics.close()

    anyio.run(run)
