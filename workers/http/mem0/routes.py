"""The addresses of mem0's API that have an equal here, and the refusal of the others.

Each handler reads its body, calls `Memories` and shapes the answer. Errors have mem0's shape, `{"detail": …}`.
"""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute

from schemas.common import BadMessage, validate
from schemas.fact import Forget
from workers.http.endpoint import route
from workers.http.errors import ApiError
from workers.http.mem0 import bodies, shapes
from workers.memories.entities import ANY, FIELDS, entities_of, namespace_of
from workers.memories.errors import NotFound
from workers.memories.filters import where
from workers.memories.service import MAX_FOUND, Memories

Handler = Callable[[Memories, Request], Awaitable[Any]]
"""A handler, whose result is written as JSON."""

MAX_FORGOTTEN = 1_000
"""Namespaces that one request may empty."""

TOGETHER = 32
"""Updates of a batch that are made at the same time."""

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")

_REFUSED = {
    "/v1/exports/{rest:path}": 'an export here is a file: factstream query "from memories" --format json, or the Parquet files',
    "/v1/summary/{rest:path}": "memories are not summed up here; list them with POST /v3/memories/",
    "/v1/feedback/{rest:path}": "there is no feedback here; update or delete the memory",
    "/v1/stats/{rest:path}": "figures are in SQL (factstream query) and in /metrics",
    "/v2/profiles/{rest:path}": "there are no profiles here; search the user's memories",
    "/v2/entities/user/{name}/profile/": "there are no profiles here; search the user's memories",
    "/api/v1/{rest:path}": "there are no projects, members and webhooks here; a token reaches all namespaces of its server, and "
    "changes are on the topic memory-changelog",
    "/v1/memories/search/": "search with POST /v3/memories/search/ (mem0ai 2.2 or newer)",
    "/v2/memories/{rest:path}": "list and search with POST /v3/memories/ (mem0ai 2.2 or newer)",
}
"""What has no equal, and what to do instead."""


async def ping(_: Memories, __: Request) -> Any:
    return {"status": "ok", "org_id": "factstream", "project_id": "factstream", "user_email": None}


async def add(memories: Memories, request: Request) -> Any:
    body = await bodies.body_of(bodies.Add, request)
    namespace, records = namespace_of(body.entities), body.records()
    if not records:
        raise BadMessage(
            "invalid-field", "messages: with infer=false there must be one that is not the system's"
        )
    change = await memories.add(namespace, records)
    return shapes.change(change, await memories.outcome(change)) | {"event_id": change.id}


async def search(memories: Memories, request: Request) -> Any:
    body = await bodies.body_of(bodies.Search, request)
    hits = await memories.search(body.query, body.where(), MAX_FOUND)
    found = [one for one in hits if shapes.score(one) >= body.threshold][: body.top_k]
    return {"results": [shapes.found(one, body.fields) for one in found]}


async def get_all(memories: Memories, request: Request) -> Any:
    body, paging = await bodies.body_of(bodies.GetAll, request), _paging(request)
    rows, count = await memories.page(body.where(), paging.page, paging.page_size)
    return _paged(request, paging, [shapes.memory(row, body.fields) for row in rows], count)


async def get(memories: Memories, request: Request) -> Any:
    return shapes.memory(await memories.get(_id(request)))


async def update(memories: Memories, request: Request) -> Any:
    body = await bodies.body_of(bodies.Update, request)
    return shapes.memory(await memories.update(_id(request), **body.changes()))


async def delete(memories: Memories, request: Request) -> Any:
    linked = request.query_params.get("delete_linked", "").lower() in ("true", "1")
    await memories.forget([_id(request)], linked)
    return {"message": "Memory deleted successfully!"}


async def history(memories: Memories, request: Request) -> Any:
    id = _id(request)
    return shapes.history(id, await memories.history(id))


async def delete_all(memories: Memories, request: Request) -> Any:
    """The memories that `get_all` lists for these ids; those of everybody only where all four are `*`."""
    given = bodies.entities_in(request.query_params)
    if set(given) == set(FIELDS) and set(given.values()) == {ANY}:
        spaces = [row["namespace"] for row in await memories.every_namespace()]
    else:
        spaces = await memories.namespaces(where(given))
    await _forget_all(memories, spaces)
    return {"message": "Memories deleted successfully!"}


async def batch_update(memories: Memories, request: Request) -> Any:
    body = await bodies.body_of(bodies.BatchUpdate, request)
    changes = [(_valid(one.memory_id), one.changes()) for one in body.memories]
    await memories.check([id for id, _ in changes])
    for begin in range(0, len(changes), TOGETHER):
        some = changes[begin : begin + TOGETHER]
        await asyncio.gather(*(memories.update(id, **change) for id, change in some))
    return {"message": f"Successfully updated {len(changes)} memories"}


async def batch_delete(memories: Memories, request: Request) -> Any:
    body = await bodies.body_of(bodies.BatchDelete, request)
    await memories.forget([_valid(one.memory_id) for one in body.memories])
    return {"message": f"Successfully deleted {len(body.memories)} memories"}


async def entities(memories: Memories, request: Request) -> Any:
    found, paging = shapes.entities(await memories.every_namespace()), _paging(request)
    begin = (paging.page - 1) * paging.page_size
    return _paged(request, paging, found[begin : begin + paging.page_size], len(found))


async def delete_entity(memories: Memories, request: Request) -> Any:
    """Every namespace that has the entity, alone or with others."""
    field, name = f"{request.path_params['kind']}_id", request.path_params["name"]
    if field not in FIELDS:
        raise BadMessage("invalid-field", "an entity is a user, an agent, an app or a run")
    spaces = [row["namespace"] for row in await memories.every_namespace()]
    spaces = [space for space in spaces if entities_of(space).get(field) == name]
    if not spaces:
        raise NotFound(f"no memory belongs to the {request.path_params['kind']} {name!r}"[:200])
    await _forget_all(memories, spaces)
    return {"message": "Entity deleted successfully!"}


async def event(memories: Memories, request: Request) -> Any:
    id = request.path_params["id"]
    if change := memories.change(id):
        return shapes.change(change, await memories.outcome(change))
    if results := shapes.effects(await memories.effects(id)):
        return {"id": id, "event_type": "ADD", "status": "SUCCEEDED", "results": results}
    if refusal := await memories.refusal(id):
        return {"id": id, "event_type": "ADD", "status": "FAILED", "results": [], "error": refusal}
    raise NotFound(f"no event has the id {id!r}"[:120])


async def events(memories: Memories, request: Request) -> Any:
    changes, paging = memories.changes(), _paging(request)
    begin = (paging.page - 1) * paging.page_size
    shown = [shapes.change(one) for one in changes[begin : begin + paging.page_size]]
    return _paged(request, paging, shown, len(changes))


async def refused(hint: str, _: Memories, request: Request) -> Any:
    raise BadMessage("unsupported", f"{request.method} {request.url.path[:200]} has no equal here: {hint}")


def routes(memories: Memories) -> list[BaseRoute]:
    served: list[tuple[str, str, Handler]] = [
        *((method, path, partial(refused, hint)) for path, hint in _REFUSED.items() for method in METHODS),
        ("GET", "/v1/ping/", ping),
        ("POST", "/v3/memories/add/", add),
        ("POST", "/v3/memories/search/", search),
        ("POST", "/v3/memories/", get_all),
        ("DELETE", "/v1/memories/", delete_all),
        ("GET", "/v1/memories/{id}/", get),
        ("PUT", "/v1/memories/{id}/", update),
        ("DELETE", "/v1/memories/{id}/", delete),
        ("GET", "/v1/memories/{id}/history/", history),
        ("PUT", "/v1/batch/", batch_update),
        ("DELETE", "/v1/batch/", batch_delete),
        ("GET", "/v1/entities/", entities),
        ("DELETE", "/v2/entities/{kind}/{name:path}/", delete_entity),
        ("GET", "/v1/events/", events),
        ("GET", "/v1/event/{id}/", event),
    ]
    return [
        route(method, path, partial(_answer, handler, memories), problem) for method, path, handler in served
    ]


async def _answer(handler: Handler, memories: Memories, request: Request) -> Response:
    try:
        return JSONResponse(await handler(memories, request))
    except NotFound as error:
        raise ApiError(404, "not-found", str(error)) from error


def problem(error: ApiError) -> Response:
    """An error as mem0's client reads it."""
    return JSONResponse({"detail": error.message, "reason": error.code}, error.status, error.headers)


async def _forget_all(memories: Memories, spaces: list[str]) -> None:
    if len(spaces) > MAX_FORGOTTEN:
        raise BadMessage(
            "invalid-field", f"{len(spaces)} namespaces would be emptied; at most {MAX_FORGOTTEN} at once are"
        )
    await memories.forget_all(spaces)


def _id(request: Request) -> str:
    return _valid(request.path_params["id"])


def _valid(id: str) -> str:
    """A memory's id, in lower case and without hyphens. Raises NotFound."""
    plain = id.replace("-", "").lower()
    try:
        return validate(Forget, {"forget": plain}).forget
    except BadMessage:
        raise NotFound(f"no memory has the id {id[:80]!r}: an id is 32 hex digits") from None


def _paging(request: Request) -> bodies.Paging:
    query = bodies.known(request.query_params)
    return validate(bodies.Paging, {name: query[name] for name in ("page", "page_size") if name in query})


def _paged(
    request: Request, paging: bodies.Paging, results: list[dict[str, Any]], count: int
) -> dict[str, Any]:
    def link(page: int) -> str:
        return str(request.url.include_query_params(page=page, page_size=paging.page_size))

    more = paging.page * paging.page_size < count
    return {
        "count": count,
        "next": link(paging.page + 1) if more else None,
        "previous": link(paging.page - 1) if paging.page > 1 else None,
        "results": results,
    }
