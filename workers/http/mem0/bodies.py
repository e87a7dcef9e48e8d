"""Bodies of mem0's requests: their fields, their limits, and the refusal of what has no equal here.

A refusal says what to do instead. Fields that say nothing about a memory, such as `org_id`, are left out.
"""

from collections.abc import Mapping
from datetime import datetime, time
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BeforeValidator, Field, model_validator
from starlette.requests import Request

from schemas.common import BadMessage, Finite, Message, Metadata, parse_json, validate
from schemas.fact import MAX_MESSAGES, Conversation, Fact, FactMessage
from workers.http.parts import Content, Listed, text_of
from workers.memories.entities import ANY, FIELDS
from workers.memories.filters import SPEAKS, Where, day_of, time_of, where
from workers.memories.service import MAX_FOUND, end_of

MAX_BODY_BYTES = 1024 * 1024
MAX_PAGE = 200
MAX_BATCH = 1_000
THRESHOLD = 0.1
"""Least score of a search's results, as mem0 has it."""

IGNORED = (
    "org_id",
    "project_id",
    "version",
    "api_version",
    "output_format",
    "async_mode",
    "rerank",
    "keyword_search",
)
"""Every search reads words and states, and ranks again with the model: see docs/memory.md."""
_NO_EXTRACTION = "no other model extracts memories here: each sentence that states something is kept, or with infer=false each message"
REFUSED = {
    "custom_instructions": _NO_EXTRACTION,
    "agent_custom_instructions": _NO_EXTRACTION,
    "custom_categories": "give a fact its category by MCP or on the topic facts, or put your own into metadata",
    "includes": _NO_EXTRACTION,
    "excludes": _NO_EXTRACTION,
    "structured_data_schema": _NO_EXTRACTION,
    "enable_graph": "there is no graph; the history of a memory is at /v1/memories/ID/history/",
    "immutable": "a memory can always be changed; leave it out",
    "reference_date": "a search is about now; `factstream query` with memories_at('2026-03-01') shows an earlier state",
}
_LATEST = "a replaced memory does not speak; the history of its id has it, so leave latest_only out"

Text = Annotated[str, Field(min_length=1, max_length=64 * 1024)]
EntityId = Annotated[str, BeforeValidator(lambda value: str(value) if type(value) is int else value)]
Filters = dict[str, Any]


def _is_moment(value: Any) -> Any:
    if type(value) not in (str, int, float):
        raise ValueError("expected a time in ISO 8601 or epoch seconds")
    return value


Moment = Annotated[str | Finite, BeforeValidator(_is_moment)]


class Turn(Message):
    role: Literal["user", "assistant", "system"]
    content: Content
    name: str | None = None

    @property
    def text(self) -> str:
        return text_of(self.content)


class Add(Message):
    """POST /v3/memories/add/."""

    messages: Annotated[list[Turn], Field(min_length=1, max_length=MAX_MESSAGES)]
    user_id: EntityId | None = None
    agent_id: EntityId | None = None
    app_id: EntityId | None = None
    run_id: EntityId | None = None
    filters: Filters | None = None
    metadata: Metadata | None = None
    infer: bool = True
    expiration_date: str | None = None
    timestamp: Moment | None = None
    observation_date: Moment | None = None

    @property
    def entities(self) -> dict[str, str]:
        """The ids of the body, at its top or in `filters`. Raises BadMessage."""
        given = {name: value for name in FIELDS if (value := getattr(self, name)) is not None} | (
            self.filters or {}
        )
        if unknown := set(given) - set(FIELDS):
            raise BadMessage(
                "invalid-field", f"filters: {min(unknown)[:80]!r} is not one of {', '.join(FIELDS)}"
            )
        if wrong := [name for name, value in given.items() if type(value) not in (str, int)]:
            raise BadMessage("invalid-field", f"{wrong[0]}: expected a text")
        return {name: str(value) for name, value in given.items()}

    def records(self) -> list[FactMessage]:
        """What is published: a conversation, or with infer=false a fact for each message that is not the system's."""
        until = (
            None if self.expiration_date is None else end_of(day_of("expiration_date", self.expiration_date))
        )
        said_at = moment_of(self.timestamp if self.timestamp is not None else self.observation_date)
        shared = {"metadata": self.metadata, "valid_until": until}
        if self.infer:
            turns = [{"role": one.role, "content": one.text, "name": one.name} for one in self.messages]
            return [validate(Conversation, {"messages": turns, "timestamp": said_at, **shared})]
        return [
            validate(Fact, {"text": one.text, "observed_at": said_at, "min_loss_delta": 0.0, **shared})
            for one in self.messages
            if one.role != "system"
        ]


class _Filtered(Message):
    filters: Filters | None = None
    categories: list[str] | None = None
    metadata: dict[str, Any] | None = None
    fields: list[str] | None = None
    show_expired: bool = False
    latest_only: bool = True

    @model_validator(mode="after")
    def _latest(self) -> Self:
        if not self.latest_only:
            raise ValueError(_LATEST)
        return self

    def conditions(self) -> list[Filters]:
        """What the body asks besides `filters`, as filters."""
        found: list[Filters] = []
        if self.categories:
            found.append({"categories": {"in": self.categories}})
        if self.metadata:
            found.append({"metadata": self.metadata})
        return found

    def where(self) -> Where:
        """Raises BadMessage."""
        if not self.filters:
            raise BadMessage("invalid-filter", f"filters must name one of {', '.join(FIELDS)}")
        found = where({"AND": [self.filters, *self.conditions()]})
        if not found.entities:
            raise BadMessage("invalid-filter", f"filters must name one of {', '.join(FIELDS)}")
        if not self.show_expired:
            found.also(SPEAKS)
        return found


class Search(_Filtered):
    """POST /v3/memories/search/."""

    query: Text
    top_k: Annotated[int, Field(ge=1, le=MAX_FOUND)] = 10
    threshold: Annotated[Finite, Field(ge=0, le=1)] = THRESHOLD

    @model_validator(mode="after")
    def _now(self) -> Self:
        if self.show_expired:
            raise ValueError("an expired memory takes no part in a search; list it with POST /v3/memories/")
        return self


class GetAll(_Filtered):
    """POST /v3/memories/."""

    start_date: str | None = None
    end_date: str | None = None
    keywords: Annotated[list[str], Listed] | None = None

    def conditions(self) -> list[Filters]:
        found = super().conditions()
        found += [{"keywords": {"icontains": word}} for word in self.keywords or []]
        if self.start_date is not None:
            found.append({"created_at": {"gte": self.start_date}})
        if self.end_date is not None:
            found.append({"created_at": {"lte": self.end_date}})
        return found


class Update(Message):
    """PUT /v1/memories/ID/. An expiration_date of null takes it away."""

    text: Text | None = None
    metadata: Metadata | None = None
    timestamp: Moment | None = None
    expiration_date: str | None = None

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not self.model_fields_set:
            raise ValueError("give text, metadata, timestamp or expiration_date")
        return self

    def changes(self) -> dict[str, Any]:
        """The arguments of `Memories.update`. Raises BadMessage."""
        found: dict[str, Any] = {"text": self.text, "observed_at": moment_of(self.timestamp)}
        if self.metadata is not None:
            found["metadata"] = self.metadata
        if "expiration_date" in self.model_fields_set:
            day = self.expiration_date
            found["valid_until"] = None if day is None else end_of(day_of("expiration_date", day))
        return found


class UpdateOne(Update):
    """One of PUT /v1/batch/."""

    memory_id: str


class BatchUpdate(Message):
    memories: Annotated[list[UpdateOne], Field(min_length=1, max_length=MAX_BATCH)]


class DeleteOne(Message):
    memory_id: str


class BatchDelete(Message):
    """DELETE /v1/batch/."""

    memories: Annotated[list[DeleteOne], Field(min_length=1, max_length=MAX_BATCH)]


class Paging(Message):
    """`page` and `page_size` of an address."""

    page: Annotated[int, Field(ge=1, le=1_000_000, strict=False)] = 1
    page_size: Annotated[int, Field(ge=1, le=MAX_PAGE, strict=False)] = 100


M = TypeVar("M", bound=Message)


async def body_of(model: type[M], request: Request) -> M:
    """The body of a request, which its endpoint has read. Raises BadMessage."""
    return validate(model, known(parse_json(await request.body(), MAX_BODY_BYTES)))


def known(body: Mapping[str, Any]) -> dict[str, Any]:
    """The fields without those that say nothing about a memory. Raises BadMessage for one that has no equal."""
    for name, hint in REFUSED.items():
        if body.get(name):
            raise BadMessage("unsupported", f"{name} is not supported: {hint}")
    return {name: value for name, value in body.items() if name not in IGNORED and name not in REFUSED}


def entities_in(query: Mapping[str, str]) -> dict[str, str]:
    """The ids in an address, `*` for any. Raises BadMessage."""
    given = known(query)
    if unknown := set(given) - set(FIELDS):
        raise BadMessage(
            "unsupported",
            f"{min(unknown)[:80]} is not supported here: give one or more of {', '.join(FIELDS)}, such as user_id=ann",
        )
    if not given:
        raise BadMessage("invalid-field", f"name one of {', '.join(FIELDS)}; {ANY} is any")
    return {name: str(value) for name, value in given.items()}


def moment_of(value: str | float | None) -> datetime | None:
    """A time; of a date alone its beginning. Raises BadMessage."""
    if value is None:
        return None
    moment = time_of("timestamp", value)
    return moment if isinstance(moment, datetime) else datetime.combine(moment, time.min)
