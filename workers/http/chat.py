"""The chat of the page: each message is learned from, then answered, in one stream of events."""

from collections.abc import Callable, Iterator
from datetime import datetime
from itertools import chain
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response, StreamingResponse

from pipeline.query import export
from pipeline.query.filter import Filter
from schemas.common import DEFAULT_NAMESPACE, BadMessage, validate
from schemas.fact import Conversation, Forget
from workers import client
from workers.assistant import answering, learning
from workers.assistant.learning import Learned
from workers.client import positions
from workers.http import streams
from workers.http.guard import form
from workers.kafka.config import KafkaSettings
from workers.memories.headers import valid_namespace

MAX_CHARS = 8_000

Render = Callable[..., str]


class Chat:
    """The chats of all browsers: what was said before is in them and in the memory, and not here."""

    def __init__(self, settings: KafkaSettings, data: Path, tickets: streams.Tickets, render: Render) -> None:
        self._settings, self._data, self._tickets, self._render = settings, data, tickets, render

    def handlers(self) -> list[tuple[str, Callable[[Request], Any], str]]:
        return [
            ("/chat", self.page, "GET"),
            ("/chat/say", self.say, "POST"),
            ("/chat/forget", self.forget, "POST"),
            ("/chat/memories.jsonl", self.export, "GET"),
        ]

    async def page(self, _: Request) -> Response:
        return HTMLResponse(self._render("chat.html", path="/chat"))

    async def say(self, request: Request) -> Response:
        fields = await form(request)
        text, speaker = fields.get("said", "").strip(), fields.get("name", "").strip() or None
        namespace = valid_namespace(fields.get("namespace", DEFAULT_NAMESPACE).strip())
        if not text:
            raise BadMessage("invalid-field", "Write a message first.")
        if len(text) > MAX_CHARS:
            raise BadMessage("invalid-field", f"The message has more than {MAX_CHARS} characters.")
        validate(Conversation, {"messages": [{"role": "user", "content": text, "name": speaker}]})

        def work(wanted: streams.Wanted) -> Iterator[str]:
            return self._turn(text, namespace, speaker, "learn" in fields, wanted)

        return HTMLResponse(self._render("said.html", said=text, ticket=self._tickets.add(work)))

    def _turn(
        self, text: str, namespace: str, speaker: str | None, learns: bool, wanted: streams.Wanted
    ) -> Iterator[str]:
        """The events of a message: what was learned, the pieces of the answer, and last all of it."""
        learned: list[Learned] = []
        try:
            with streams.as_failed():
                if learns:
                    now = datetime.now().astimezone()
                    learned = learning.learn(self._settings, self._data, namespace, text, speaker, now)
                    yield streams.event(
                        "learned", self._render("learned.html", learned=learned, namespace=namespace)
                    )
                recent = positions.recall(self._data, [namespace])  # with what was just said
                asking = answering.request(text, namespace, speaker)
                with client.Client(self._settings) as connection:
                    for piece in answering.answer(connection, asking, recent, wanted):
                        if isinstance(piece, str):
                            yield streams.event("piece", self._render("piece.html", text=piece))
                        elif piece.error:
                            raise streams.Failed(f"No answer: {piece.error.message} ({piece.error.reason}).")
                        else:
                            used = [memory for memory in piece.memories if memory.gate > 0]
                            html = self._render(
                                "replied.html", answer=piece, used=used, learned=learned, namespace=namespace
                            )
                            yield streams.event("answer", html)
        except streams.Failed as error:
            html = self._render("reply_failed.html", message=str(error), learned=learned, namespace=namespace)
            yield streams.event("answer", html)

    async def forget(self, request: Request) -> Response:
        fields = await form(request)
        named = {"forget": fields.get("memory_id", ""), "namespace": fields.get("namespace", "")}
        message = validate(Forget, named)

        def work() -> None:
            with streams.as_failed():
                learning.forget(self._settings, self._data, message.namespace or "", [message.forget])

        try:
            await run_in_threadpool(work)
        except streams.Failed as error:
            return HTMLResponse(self._render("problem.html", message=str(error)))
        return HTMLResponse(self._render("forgotten.html", text=fields.get("text", "")))

    async def export(self, request: Request) -> Response:
        """The memories of a namespace, a file for `factstream memories import`."""
        namespace = valid_namespace(request.query_params.get("namespace", DEFAULT_NAMESPACE))
        lines = export.lines(self._data, Filter(namespace=namespace))
        first = await run_in_threadpool(next, lines, b"")  # what fails has a status
        headers = {"content-disposition": 'attachment; filename="memories.jsonl"'}
        return StreamingResponse(chain([first], lines), media_type="application/x-ndjson", headers=headers)
