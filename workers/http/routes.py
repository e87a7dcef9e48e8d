"""The pages of `factstream serve`: the response of each address.

Pages are made from templates that escape everything put into them. Queries run on threads, answers and
decisions arrive as streams: the event loop never waits for a query or a broker.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jinja2
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from pipeline.history.errors import HistoryError
from pipeline.query.run import QueryError
from schemas.common import DEFAULT_NAMESPACE, BadMessage, validate
from schemas.fact import Fact, Forget
from schemas.request import GenerationRequest
from schemas.response import GenerationResponse, Token
from workers.http import pages, streams
from workers.http.chat import Chat
from workers.http.guard import form
from workers.http.lag import Sampler
from workers.kafka.config import KafkaSettings

HERE = Path(__file__).parent
MAX_PROMPT_CHARS = 8_000
MAX_QUERIES = 2
"""Most queries at the same time: each may use all the memory that DuckDB is allowed."""

Handler = Callable[[Request], Any]

templates = jinja2.Environment(
    loader=jinja2.FileSystemLoader(HERE / "templates"), autoescape=True, trim_blocks=True, lstrip_blocks=True,
    undefined=jinja2.StrictUndefined,
)  # fmt: skip


def render(name: str, **context: Any) -> str:
    return templates.get_template(name).render(context)


class Site:
    """The pages of one data folder and one cluster."""

    def __init__(self, settings: KafkaSettings, data: Path) -> None:
        self.settings, self.data = replace(settings, connect_timeout_s=3.0), data
        self.tickets, self.sampler = streams.Tickets(), Sampler(self.settings)
        self.chat = Chat(self.settings, data, self.tickets, render)
        self._queries = asyncio.Semaphore(MAX_QUERIES)
        # The time of the last decision, and the map's points at that time.
        self._map: tuple[object, list[dict[str, Any]]] = (None, [])

    def routes(self) -> list[BaseRoute]:
        handlers: list[tuple[str, Handler, str]] = [
            ("/", self.home, "GET"),
            ("/ask", self.ask, "POST"),
            ("/publish", self.publish, "POST"),
            ("/stream/{ticket}", self.stream, "GET"),
            *self.chat.handlers(),
            ("/memories", self.memories, "GET"),
            ("/memories/{namespace:path}/{memory_id}", self.life, "GET"),
            ("/time", partial(self.page, "time.html"), "GET"),
            ("/time.json", self.over_time, "GET"),
            ("/map", partial(self.page, "map.html"), "GET"),
            ("/map.json", self.map, "GET"),
            ("/status", self.status, "GET"),
        ]
        routes = [Route(path, handler, methods=[method]) for path, handler, method in handlers]
        return [*routes, Mount("/static", StaticFiles(directory=HERE / "static"))]

    def exception_handlers(self) -> dict[Any, Any]:
        kinds = dict.fromkeys((BadMessage, QueryError, HistoryError), self.failed)
        return kinds | {404: self.refused, 405: self.refused, 500: self.broken}

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        self.sampler.start()
        yield
        self.sampler.stop()

    # --- errors ---

    async def failed(self, request: Request, error: Exception) -> Response:
        return self.problem(request, str(error), 422 if isinstance(error, BadMessage) else 500)

    async def refused(self, request: Request, error: Exception) -> Response:
        if isinstance(error, HTTPException) and error.status_code == 405:
            return PlainTextResponse("Method Not Allowed", 405, error.headers)
        return self.problem(request, "There is no such page.", 404)

    async def broken(self, request: Request, _: Exception) -> Response:
        return self.problem(request, "Something went wrong here. The server's terminal shows the error.", 500)

    def problem(self, request: Request, message: str, status: int) -> Response:
        """The message as JSON, as a part of a page or as a whole page, whichever was requested."""
        if request.url.path.endswith(".json"):
            return JSONResponse({"error": message}, status)
        if request.headers.get("hx-request"):
            return HTMLResponse(render("problem.html", message=message), status)
        return HTMLResponse(render("error.html", path="", message=message), status)

    # --- asking and publishing ---

    async def home(self, request: Request) -> Response:
        return HTMLResponse(render("home.html", path="/", categories=await self.categories()))

    async def page(self, name: str, request: Request) -> Response:
        return HTMLResponse(render(name, path=request.url.path))

    async def categories(self) -> list[str]:
        """The categories to suggest while typing."""
        with suppress(QueryError):
            return [row["category"] for row in await self.read(pages.categories) if row["category"]]
        return []

    async def ask(self, request: Request) -> Response:
        fields = await form(request)
        prompt, chat = fields.get("prompt", ""), "chat" in fields
        if not prompt:
            raise BadMessage("invalid-field", "Write a prompt first.")
        if len(prompt) > MAX_PROMPT_CHARS:
            raise BadMessage("invalid-field", f"The prompt has more than {MAX_PROMPT_CHARS} characters.")
        requests = [_generation_request(fields, prompt, chat, use_memory) for use_memory in (True, False)]
        tickets = [self.tickets.add(partial(self._answer, one)) for one in requests]
        return HTMLResponse(render("answer_pending.html", prompt=prompt, chat=chat, tickets=tickets))

    def _answer(self, request: GenerationRequest, wanted: streams.Wanted) -> Iterator[str]:
        """The events of one answer: its pieces, then the complete answer."""
        try:
            for piece in streams.answer(self.settings, self.data, request, wanted):
                if isinstance(piece, GenerationResponse):
                    html = render(
                        "answer.html", answer=piece, used=[m for m in piece.memories if m.gate > 0],
                        with_memory=request.use_memory, tokens=[_coloured(token) for token in piece.tokens or []],
                        prompt=request.prompt or "", chat=request.prompt is None,
                    )  # fmt: skip
                    yield streams.event("answer", html)
                else:
                    yield streams.event("piece", render("piece.html", text=piece))
        except streams.Failed as error:
            html = render("answer_failed.html", message=str(error), with_memory=request.use_memory)
            yield streams.event("answer", html)

    async def publish(self, request: Request) -> Response:
        fields = await form(request)
        if "text" not in fields:
            raise BadMessage("invalid-field", "Write a fact first.")
        body: dict[str, Any] = {
            name: fields[name].strip() for name in ("text", "category", "source") if name in fields
        }
        body["namespace"] = fields.get("namespace", DEFAULT_NAMESPACE).strip()
        fact = validate(Fact, body | ({"min_loss_delta": 0.0} if "always" in fields else {}))
        ticket = self.tickets.add(partial(self._decision, fact))
        return HTMLResponse(render("decision_pending.html", ticket=ticket, text=fact.text))

    def _decision(self, fact: Fact, _: streams.Wanted) -> Iterator[str]:
        """The event of a fact's decision."""
        try:
            published = streams.publish(self.settings, self.data, fact.namespace or DEFAULT_NAMESPACE, fact)
            row = None
            if published.decided:
                at = published.decided[0]
                row = pages.decision(self.data, at.topic_id, at.partition, at.offset)
            outcome = next(iter(published.outcomes))
            html = render("decision.html", outcome=outcome, row=row, text=fact.text)
        except (streams.Failed, QueryError) as error:
            html = render("decision_failed.html", message=str(error), text=fact.text)
        yield streams.event("decision", html)

    async def stream(self, request: Request) -> Response:
        work = self.tickets.take(request.path_params["ticket"])
        if work is None or self.tickets.running >= streams.MAX_STREAMS:
            reason = "Too many requests are running" if work else "The connection was interrupted"
            html = render("problem.html", message=f"{reason}. Please send it again.")
            events: Any = iter([streams.event("answer", html), streams.event("decision", html)])
        else:
            events = streams.run(self.tickets, work)
        return StreamingResponse(events, media_type="text/event-stream")

    # --- reading the data folder ---

    async def read(self, query: Callable[..., Any], *arguments: Any) -> Any:
        async with self._queries:
            return await run_in_threadpool(query, self.data, *arguments)

    async def memories(self, request: Request) -> Response:
        filter = _filter(request.query_params)
        rows, count = await self.read(pages.memories, filter)
        context: dict[str, Any] = {
            "filter": filter, "rows": rows, "count": count, "pages": -(-count // pages.PAGE), "sorts": list(pages.SORTS)
        }  # fmt: skip
        if request.headers.get("hx-target") == "table":
            return HTMLResponse(render("table.html", **context))
        context |= {"path": "/memories", "states": pages.STATES, "categories": await self.categories()}
        return HTMLResponse(render("memories.html", **context))

    async def life(self, request: Request) -> Response:
        namespace, memory_id = request.path_params["namespace"], request.path_params["memory_id"]
        validate(Forget, {"forget": memory_id, "namespace": namespace})
        events = await self.read(pages.life, namespace, memory_id)
        return HTMLResponse(render("life.html", events=events, memory_id=memory_id, namespace=namespace))

    async def over_time(self, _: Request) -> Response:
        return JSONResponse(await self.read(pages.over_time) | {"lag": self.sampler.samples()})

    async def map(self, _: Request) -> Response:
        last = await self.read(pages.last_decided)
        if self._map[0] != last:
            self._map = (last, await self.read(pages.atlas))
        return JSONResponse({"points": self._map[1], "limit": pages.MAX_POINTS})

    async def status(self, _: Request) -> Response:
        now = self.sampler.last()
        return HTMLResponse(render("status.html", bootstrap=self.settings.bootstrap, now=now))


def _generation_request(
    fields: Mapping[str, str], prompt: str, chat: bool, use_memory: bool
) -> GenerationRequest:
    length = fields.get("length", "24")
    question = {"messages": [{"role": "user", "content": prompt}]} if chat else {"prompt": prompt}
    options = {
        "namespace": [name.strip() for name in fields.get("namespace", DEFAULT_NAMESPACE).split(",")],
        "max_new_tokens": int(length) if length.isdecimal() and len(length) < 6 else 0,
        "use_memory": use_memory, "stream": True, "tokens": True,
    }  # fmt: skip
    return validate(GenerationRequest, question | options)


def _filter(params: Mapping[str, str]) -> pages.Filter:
    """The table's filter in a query string; invalid values are ignored."""
    page, state, sort = (params.get(name, "") for name in ("page", "state", "sort"))
    return pages.Filter(
        params.get("q", "")[:200],
        state if state in pages.STATES else "remembered",
        params.get("category", "")[:256],
        sort if sort in pages.SORTS else "learned",
        params.get("order") != "up",
        int(page) if page.isdecimal() and 0 < len(page) < 6 and int(page) else 1,
    )


def _coloured(token: Token) -> dict[str, Any]:
    """A token without its leading blanks, the blanks, and a level from 0 to 4: how much the memories raised it."""
    text = token.text.lstrip()
    blank = token.text[: len(token.text) - len(text)]
    level = sum(token.moved >= step for step in (0.05, 0.25, 0.5, 0.75))
    return {"blank": blank, "text": text, "level": level, "moved": round(token.moved * 100)}
