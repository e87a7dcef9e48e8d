"""The server of `factstream ui`: its routes, and how it starts and ends.

A page is made from templates that escape whatever is put into them. Reading is done by `look`, asking and publishing by
`streams`, on threads: the event loop never waits for a query or a broker.
"""

import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jinja2
import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from pipeline.history.log import HistoryError
from pipeline.query.run import QueryError
from schemas.common import DEFAULT_NAMESPACE, BadMessage, validate
from schemas.fact import Fact, Forget
from schemas.request import GenerationRequest
from schemas.response import GenerationResponse, Token
from workers.http import pages as look
from workers.http import streams
from workers.http.guard import Guard, form
from workers.http.lag import Sampler
from workers.kafka.clients import KafkaSettings
from workers.runtime.supervisor import signals

HERE = Path(__file__).parent
MAX_PROMPT_CHARS = 8_000
QUERIES = 2  # at the same time: each may take DuckDB's whole allowance
STOP_S = 2
Page = Callable[[Request], Any]

templates = jinja2.Environment(
    loader=jinja2.FileSystemLoader(HERE / "templates"), autoescape=True, trim_blocks=True, lstrip_blocks=True,
    undefined=jinja2.StrictUndefined,
)  # fmt: skip


def render(name: str, **context: Any) -> str:
    return templates.get_template(name).render(context)


class UI:
    """The pages of one data folder and one cluster."""

    def __init__(self, settings: KafkaSettings, data: Path) -> None:
        self.settings, self.data = replace(settings, connect_timeout_s=3.0), data
        self.tickets, self.sampler = streams.Tickets(), Sampler(self.settings)
        self._queries = asyncio.Semaphore(QUERIES)
        self._atlas: tuple[object, list[dict[str, Any]]] = (None, [])

    def app(self) -> Starlette:
        pages: list[tuple[str, Page, str]] = [
            ("/", self.home, "GET"),
            ("/ask", self.ask, "POST"),
            ("/publish", self.publish, "POST"),
            ("/stream/{ticket}", self.stream, "GET"),
            ("/memories", self.memories, "GET"),
            ("/memories/{namespace}/{memory_id}", self.life, "GET"),
            ("/time", partial(self.page, "time.html"), "GET"),
            ("/time.json", self.over_time, "GET"),
            ("/map", partial(self.page, "map.html"), "GET"),
            ("/map.json", self.map, "GET"),
            ("/status", self.status, "GET"),
        ]
        routes = [Route(path, page, methods=[method]) for path, page, method in pages]
        return Starlette(
            routes=[*routes, Mount("/static", StaticFiles(directory=HERE / "static"))],
            exception_handlers={
                BadMessage: self.refused, QueryError: self.refused, HistoryError: self.refused,
                404: self.missing, 500: self.broken,
            },
            lifespan=self.lifespan,
        )  # fmt: skip

    @asynccontextmanager
    async def lifespan(self, _: Starlette) -> AsyncIterator[None]:
        self.sampler.start()
        yield
        self.sampler.stop()

    # --- what goes wrong, in plain words ---

    async def refused(self, request: Request, error: Exception) -> Response:
        status = 422 if isinstance(error, BadMessage) else 500
        return self.problem(request, str(error), status)

    async def missing(self, request: Request, _: Exception) -> Response:
        return self.problem(request, "There is no such page.", 404)

    async def broken(self, request: Request, _: Exception) -> Response:
        return self.problem(request, "Something went wrong here. The terminal of the server says more.", 500)

    def problem(self, request: Request, message: str, status: int) -> Response:
        if request.url.path.endswith(".json"):
            return JSONResponse({"error": message}, status)
        if request.headers.get("hx-request"):
            return HTMLResponse(render("problem.html", message=message), status)
        return HTMLResponse(render("lost.html", path="", message=message), status)

    # --- asking and publishing ---

    async def home(self, request: Request) -> Response:
        names = await self.names()
        return HTMLResponse(render("home.html", path="/", categories=names))

    async def page(self, name: str, request: Request) -> Response:
        return HTMLResponse(render(name, path=request.url.path))

    async def names(self) -> list[str]:
        with suppress(QueryError):  # they only help in typing
            return [row["category"] for row in await self.read(look.categories) if row["category"]]
        return []

    async def ask(self, request: Request) -> Response:
        fields = await form(request)
        prompt = fields.get("prompt", "")
        if not prompt:
            raise BadMessage("invalid-field", "Write a prompt first.")
        if len(prompt) > MAX_PROMPT_CHARS:
            raise BadMessage("invalid-field", f"The prompt has more than {MAX_PROMPT_CHARS} characters.")
        length = fields.get("length", "24")
        chat = {"messages": [{"role": "user", "content": prompt}]} if "chat" in fields else {"prompt": prompt}
        names = fields.get("namespace", DEFAULT_NAMESPACE).replace(",", " ").split()
        asked = {
            "namespace": names, "max_new_tokens": int(length) if length.isdecimal() and len(length) < 6 else 0,
            "stream": True, "tokens": True,
        }  # fmt: skip
        tickets = [
            self.tickets.leave(
                partial(self._answer, validate(GenerationRequest, chat | asked | {"use_memory": use}))
            )
            for use in (True, False)
        ]
        return HTMLResponse(render("asked.html", prompt=prompt, chat="chat" in fields, tickets=tickets))

    def _answer(self, request: GenerationRequest, going: streams.Going) -> Iterator[str]:
        asked = {"prompt": request.prompt or "", "chat": request.prompt is None}
        try:
            for piece in streams.answer(self.settings, self.data, request, going):
                if isinstance(piece, GenerationResponse):
                    said = [m for m in piece.memories if m.gate > 0]
                    html = render(
                        "answer.html", answer=piece, spoke=said, with_memory=request.use_memory,
                        tokens=[_coloured(token) for token in piece.tokens or []], **asked,
                    )  # fmt: skip
                    yield streams.event("answer", html)
                else:
                    yield streams.event("piece", render("piece.html", text=piece))
        except streams.Failed as error:
            html = render("unanswered.html", message=str(error), with_memory=request.use_memory)
            yield streams.event("answer", html)

    async def publish(self, request: Request) -> Response:
        fields = await form(request)
        if "text" not in fields:
            raise BadMessage("invalid-field", "Write a fact first.")
        body = {
            name: value.strip() for name, value in fields.items() if name in ("text", "category", "source")
        }
        body["namespace"] = fields.get("namespace", DEFAULT_NAMESPACE).strip()
        fact = validate(Fact, body | ({"min_loss_delta": 0.0} if "always" in fields else {}))
        ticket = self.tickets.leave(partial(self._decision, fact))
        return HTMLResponse(render("published.html", ticket=ticket, text=fact.text))

    def _decision(self, fact: Fact, _: streams.Going) -> Iterator[str]:
        try:
            namespace = fact.namespace or DEFAULT_NAMESPACE
            done = streams.publish(self.settings, self.data, namespace, fact)
            row = None
            if done.decided:
                at = done.decided[0]
                row = look.decision(self.data, at.topic_id, at.partition, at.offset)
            outcome = next(iter(done.outcomes))
            html = render("decision.html", outcome=outcome, row=row, text=fact.text)
        except (streams.Failed, QueryError) as error:
            html = render("undecided.html", message=str(error), text=fact.text)
        yield streams.event("decision", html)

    async def stream(self, request: Request) -> Response:
        work = self.tickets.take(request.path_params["ticket"])
        if work is None or self.tickets.running >= streams.MAX_STREAMS:
            said = "Too much is going on at once" if work else "This was interrupted"
            html = render("problem.html", message=f"{said}. Please send it again.")
            events: Any = iter([streams.event("answer", html), streams.event("decision", html)])
        else:
            events = streams.run(self.tickets, work)
        return StreamingResponse(events, media_type="text/event-stream")

    # --- looking ---

    async def read(self, what: Callable[..., Any], *more: Any) -> Any:
        async with self._queries:
            return await run_in_threadpool(what, self.data, *more)

    async def memories(self, request: Request) -> Response:
        asked = _asked(request.query_params)
        rows, count = await self.read(look.memories, asked)
        context = {
            "asked": asked,
            "rows": rows,
            "count": count,
            "pages": -(-count // look.PAGE),
            "sorts": list(look.SORTS),
        }
        if request.headers.get("hx-target") == "table":
            return HTMLResponse(render("table.html", **context))
        return HTMLResponse(
            render(
                "memories.html",
                path="/memories",
                categories=await self.names(),
                states=look.STATES,
                **context,
            )
        )

    async def life(self, request: Request) -> Response:
        namespace, memory_id = request.path_params["namespace"], request.path_params["memory_id"]
        validate(Forget, {"forget": memory_id, "namespace": namespace})
        events = await self.read(look.life, namespace, memory_id)
        return HTMLResponse(render("life.html", events=events, memory_id=memory_id, namespace=namespace))

    async def over_time(self, _: Request) -> Response:
        told = await self.read(look.over_time)
        return JSONResponse(told | {"lag": self.sampler.samples()})

    async def map(self, _: Request) -> Response:
        last = await self.read(look.written)
        if self._atlas[0] != last:
            self._atlas = (last, await self.read(look.atlas))
        return JSONResponse({"points": self._atlas[1], "limit": look.MAX_POINTS})

    async def status(self, _: Request) -> Response:
        now = self.sampler.last()
        return HTMLResponse(render("status.html", bootstrap=self.settings.bootstrap, now=now))


def _asked(params: Mapping[str, str]) -> look.Asked:
    """The table that an address asks for; whatever makes no sense in it is left out."""
    page = params.get("page", "1")
    return look.Asked(
        params.get("q", "")[:200],
        state if (state := params.get("state", "")) in look.STATES else "remembered",
        params.get("category", "")[:256],
        sort if (sort := params.get("sort", "")) in look.SORTS else "learned",
        params.get("order") != "up",
        int(page) if page.isdecimal() and 0 < len(page) < 6 and int(page) else 1,
    )


def _coloured(token: Token) -> dict[str, Any]:
    """A token, its blanks apart, and from 0 to 4 how strongly it is coloured, since the memories moved it."""
    text = token.text.lstrip()
    blank = token.text[: len(token.text) - len(text)]
    level = sum(token.moved >= step for step in (0.05, 0.25, 0.5, 0.75))
    return {"blank": blank, "text": text, "level": level, "moved": round(token.moved * 100)}


def serve(
    settings: KafkaSettings,
    data: Path,
    host: str,
    port: int,
    stop: threading.Event | None = None,
    say: Callable[[str], object] = lambda url: print(f"ready: {url}", flush=True),
) -> None:
    """The page until `stop`, SIGINT or SIGTERM; `say` gets its address. Raises ValueError, and OSError where the port is taken."""
    if host in ("0.0.0.0", "::", ""):
        raise ValueError("--host is one address of this machine, by which browsers call it, not all of them")
    stop = stop or threading.Event()
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, port), family=family) as listener:
        bound = listener.getsockname()[1]
        names = dict.fromkeys([f"[{host}]" if ":" in host else host.lower()])
        if host in ("127.0.0.1", "localhost", "::1"):
            names |= dict.fromkeys(["127.0.0.1", "localhost"])
        app = Guard(UI(settings, data).app(), [f"{name}:{bound}" for name in names])
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, proxy_headers=False, server_header=False, ws="none",
            timeout_graceful_shutdown=STOP_S, limit_concurrency=64,
        )  # fmt: skip
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="ui")
        with signals(stop, stop):
            thread.start()
            while not server.started and thread.is_alive():
                time.sleep(0.02)
            if thread.is_alive():
                say(f"http://{next(iter(names))}:{bound}/")
            while thread.is_alive() and not stop.wait(0.2):
                pass
            server.should_exit = True
            thread.join()
