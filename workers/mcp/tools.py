"""The tools: eight over the memories of one namespace, which the host of the assistant chooses.

No tool takes a namespace, so an assistant cannot reach another one's memories, whatever it is told to do. What fails is told in
words, so that the assistant can act on it.
"""

from collections.abc import Awaitable, Callable
from datetime import date
from functools import wraps
from typing import Annotated, Any, Literal, ParamSpec, TypeVar

from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError
from pydantic import BaseModel, ConfigDict, Field

from pipeline.history.errors import HistoryError
from pipeline.query.run import QueryError
from schemas.common import BadMessage, validate
from schemas.fact import Conversation, Fact, FactMessage
from schemas.request import GenerationRequest
from workers.client import ClientError
from workers.kafka.errors import KafkaError, KafkaUnavailable, TopicsMismatch, TopicsMissing
from workers.mcp import results
from workers.memories.errors import NotFound
from workers.memories.filters import where_in
from workers.memories.service import KEEP, Memories, end_of

MAX_PAGE = 100

P = ParamSpec("P")
T = TypeVar("T")
Category = Annotated[str | None, Field(max_length=256, description="Only memories of this category.")]
Wanted = Annotated[
    dict[str, Any] | None,
    Field(
        description='Only memories whose metadata has these values, such as {"topic": "food"}; or operators: {"year": {"gte": 2024}}.'
    ),
]
Id = Annotated[str, Field(min_length=32, max_length=36, description="The id of a memory: 32 hex digits.")]
Question = Annotated[
    str, Field(min_length=1, max_length=16_384, description="A question, as a person asks it.")
]
Tokens = Annotated[int, Field(ge=1, le=1024, description="Most tokens of the answer.")]


class Turn(BaseModel):
    """A message of a conversation."""

    model_config = ConfigDict(extra="forbid")

    role: Literal["user", "assistant", "system"]
    content: Annotated[str, Field(max_length=8192)]
    name: Annotated[str | None, Field(description="Who said it; then the memory is about that person.")] = (
        None
    )


def _with_tool_errors(tool: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]:
    """The tool, whose expected failures become tool errors, which the assistant reads."""

    @wraps(tool)
    async def called(*arguments: P.args, **options: P.kwargs) -> T:
        try:
            return await tool(*arguments, **options)
        except (BadMessage, NotFound, ClientError, KafkaUnavailable, TopicsMissing, TopicsMismatch) as error:
            raise ToolError(str(error)[:1000]) from error
        except (KafkaError, QueryError, HistoryError) as error:
            raise ToolError(f"the memory cannot be reached: {str(error)[:900]}") from error

    return called


class Tools:
    """The tools. `space` tells the namespace of a call."""

    def __init__(self, memories: Memories, space: Callable[[Context[Any, Any]], str]) -> None:
        self._memories, self._space = memories, space

    @_with_tool_errors
    async def add_memory(
        self,
        ctx: Context[Any, Any],
        text: Annotated[
            str | None,
            Field(
                min_length=1,
                max_length=8192,
                description="One statement with its subject named: 'Ann lives in Porto.'",
            ),
        ] = None,
        messages: Annotated[
            list[Turn] | None,
            Field(
                min_length=1,
                max_length=256,
                description="Or a conversation: what its users state is remembered.",
            ),
        ] = None,
        category: Annotated[
            str | None, Field(max_length=256, description="A group, such as food or work.")
        ] = None,
        metadata: Annotated[
            dict[str, Any] | None, Field(description="Any JSON object of at most 4 KiB, to filter by later.")
        ] = None,
        expires: Annotated[
            date | None, Field(description="The last day on which it is true, YYYY-MM-DD.")
        ] = None,
    ) -> results.AddedMemories:
        """Remember a statement, or what was stated in a conversation. A newer statement replaces the older one that it contradicts.

        Give either text or messages. Returns what became of each statement when it is decided, with the id of its memory.
        """
        if (text is None) == (messages is None):
            raise BadMessage("invalid-field", "give either text or messages")
        shared = {
            "category": category,
            "metadata": metadata,
            "valid_until": end_of(expires) if expires else None,
        }
        if messages is None:
            record: FactMessage = validate(Fact, {"text": text, "min_loss_delta": 0.0, **shared})
        else:
            record = validate(Conversation, {"messages": [one.model_dump() for one in messages], **shared})
        change = await self._memories.add(self._space(ctx), [record])
        return results.added(await self._memories.outcome(change))

    @_with_tool_errors
    async def search_memories(
        self,
        ctx: Context[Any, Any],
        query: Annotated[
            str, Field(min_length=1, max_length=16_384, description="A question, or some words.")
        ],
        limit: Annotated[int, Field(ge=1, le=100, description="Most memories to return.")] = 10,
        category: Category = None,
        metadata: Wanted = None,
    ) -> results.FoundMemories:
        """Find the memories that a question is about, best first, by meaning and by words."""
        where = where_in(self._space(ctx), *_conditions(category, metadata))
        found = await self._memories.search(query, where, limit)
        return results.FoundMemories(memories=[results.found(one) for one in found])

    @_with_tool_errors
    async def get_memories(
        self,
        ctx: Context[Any, Any],
        page: Annotated[int, Field(ge=1, le=1_000_000)] = 1,
        page_size: Annotated[int, Field(ge=1, le=MAX_PAGE)] = 20,
        category: Category = None,
        metadata: Wanted = None,
        contains: Annotated[
            str | None,
            Field(max_length=256, description="Only memories whose text contains this, in any case."),
        ] = None,
    ) -> results.Memories:
        """List memories, newest first, page by page. To find what a question is about, use search_memories."""
        where = where_in(self._space(ctx), *_conditions(category, metadata, contains))
        rows, total = await self._memories.page(where, page, page_size)
        pages = -(-total // page_size)
        return results.Memories(
            memories=[results.memory(row) for row in rows], total=total, page=page, pages=pages
        )

    @_with_tool_errors
    async def update_memory(
        self,
        ctx: Context[Any, Any],
        memory_id: Id,
        text: Annotated[str | None, Field(min_length=1, max_length=8192, description="The new text.")] = None,
        metadata: Annotated[
            dict[str, Any] | None, Field(description="The new metadata, in place of the old.")
        ] = None,
        expires: Annotated[date | None, Field(description="The last day on which it is true.")] = None,
    ) -> results.Memory:
        """Change a memory that is wrong or out of date. What is not given stays, and so does the id."""
        if text is None and metadata is None and expires is None:
            raise BadMessage("invalid-field", "give text, metadata or expires")
        changed = await self._memories.update(
            _id(memory_id),
            text,
            KEEP if metadata is None else metadata,
            KEEP if expires is None else end_of(expires),
            namespace=self._space(ctx),
        )
        return results.memory(changed)

    @_with_tool_errors
    async def delete_memory(self, ctx: Context[Any, Any], memory_id: Id) -> results.Done:
        """Forget one memory. Its text stays in the history, which a person can erase."""
        await self._memories.forget([_id(memory_id)], namespace=self._space(ctx))
        return results.Done(message=f"forgotten: {memory_id}")

    @_with_tool_errors
    async def delete_all_memories(
        self,
        ctx: Context[Any, Any],
        confirm: Annotated[Literal[True], Field(description="true: the user has asked for exactly this.")],
    ) -> results.Done:
        """Forget every memory. Only if the user asks for it in so many words."""
        space = self._space(ctx)
        await self._memories.forget_all([space])
        return results.Done(message=f"all memories of {space!r} are forgotten")

    @_with_tool_errors
    async def ask(
        self, ctx: Context[Any, Any], question: Question, max_tokens: Tokens = 128
    ) -> results.Answer:
        """Ask the small language model that holds the memories. Its answers are short; it knows what is remembered."""
        space = self._space(ctx)
        answer = await self._memories.ask(_request(question, space, max_tokens))
        found = await self._memories.found([one for one in answer.memories if one.gate > 0], where_in(space))
        return results.Answer(answer=answer.text, memories=[results.used(one) for one in found])

    @_with_tool_errors
    async def why(
        self, ctx: Context[Any, Any], question: Question, max_tokens: Tokens = 128
    ) -> results.Explanation:
        """Explain an answer of `ask`: which memories moved it, how far they moved each piece, and the answer without them.

        Give the same question: answers are deterministic as long as the memories are the same.
        """
        space = self._space(ctx)
        answer = await self._memories.ask(_request(question, space, max_tokens, tokens=True))
        bare = await self._memories.ask(_request(question, space, max_tokens, use_memory=False))
        found = await self._memories.found(answer.memories, where_in(space))
        return results.Explanation(
            answer=answer.text,
            without_memory=bare.text,
            memories=[results.used(one) for one in found],
            pieces=[results.Moved(text=one.text, moved=round(one.moved, 4)) for one in answer.tokens or []],
        )


def _conditions(
    category: str | None, metadata: dict[str, Any] | None, contains: str | None = None
) -> list[dict[str, Any]]:
    given = {"categories": category, "metadata": metadata, "keywords": contains}
    return [{name: value} for name, value in given.items() if value]


def _id(memory_id: str) -> str:
    return memory_id.replace("-", "").lower()


def _request(question: str, space: str, max_tokens: int, **options: Any) -> GenerationRequest:
    turns = [{"role": "user", "content": question}]
    return validate(
        GenerationRequest, {"messages": turns, "namespace": space, "max_new_tokens": max_tokens, **options}
    )
