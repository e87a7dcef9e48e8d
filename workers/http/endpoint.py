"""Endpoint of an API: what every request gets before and after its handler, whichever API it is of.

The body is read first, with a limit of its size and time; a client that leaves ends the handler and its stream; an error is
told in the API's own shape; a request is counted, timed and traced, and so is what is sent to the topics because of it.
Handlers do nothing but answer.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import NoReturn

from opentelemetry.trace import SpanKind
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from workers.http.errors import ApiError, as_api_error
from workers.observe import log, metrics, tracing

MAX_BODY_BYTES = 2 * 1024 * 1024
DROPPED_BYTES = 16 * 1024 * 1024
"""What is read of a body that is too large, before the connection is closed."""
BODY_S = 30.0
"""Seconds for the whole body to arrive."""
REQUEST_S = 300.0
"""Seconds for the whole request; a client that reads more slowly loses its connection."""
LEFT = 499
"""The status of a request whose client left, as nginx counts it."""

Handler = Callable[[Request], Awaitable[ASGIApp]]
"""A handler, whose result is a response, or another application that gives one."""
Shape = Callable[[ApiError], Response]
"""An error as the clients of an API expect it."""


def route(method: str, path: str, handler: Handler, shape: Shape) -> Route:
    """The route of a handler, for the list of an API's folder."""
    return Route(path, Endpoint(path, handler, shape), methods=[method], name=path)


class Endpoint:
    """An ASGI application that answers one address."""

    def __init__(self, path: str, handler: Handler, shape: Shape) -> None:
        self._path, self._handler, self._shape = path, handler, shape

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started, status = time.monotonic(), LEFT
        header = dict(scope["headers"]).get(b"traceparent")
        parent = tracing.of([(tracing.HEADER, header)])
        attributes = {"http.request.method": scope["method"], "http.route": self._path}
        span = tracing.begin(
            f"{scope['method']} {self._path}", parent, SpanKind.SERVER, attributes=attributes
        )

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        metrics.HTTP_RUNNING.inc()
        try:
            with tracing.within(span):
                async with asyncio.timeout(REQUEST_S):
                    await self._answer(scope, receive, counted)
        except Exception as error:
            if status == LEFT:
                await self._shape(as_api_error(error))(scope, _never, counted)
            elif not isinstance(error, TimeoutError):  # a part was sent: the server closes the connection
                raise
        except asyncio.CancelledError:  # the server stops, and has waited for this request
            log.line("request cut off", path=self._path)
        finally:
            metrics.HTTP_RUNNING.dec()
            metrics.served(self._path, status, time.monotonic() - started)
            if status >= 500:
                tracing.fail(span, str(status))
            span.end()

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await _body(receive)
        if body is None:
            return
        unread: list[Message] = [{"type": "http.request", "body": body}]

        async def replayed() -> Message:
            return unread.pop() if unread else await _never()

        answering = asyncio.ensure_future(self._handled(scope, replayed, send))
        leaving = asyncio.ensure_future(_left(receive))
        try:
            await asyncio.wait([answering, leaving], return_when=asyncio.FIRST_COMPLETED)
            if answering.done():
                answering.result()  # raises what it raised
        finally:
            for task in (answering, leaving):
                task.cancel()
            await asyncio.gather(answering, leaving, return_exceptions=True)

    async def _handled(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = await self._handler(Request(scope, receive))
        await response(scope, receive, send)


async def _body(receive: Receive) -> bytes | None:
    """The whole body; None if the client has left. Raises ApiError.

    Of a body that is too large a part is read and dropped: a client that still sends does not see the answer.
    """
    body, size, more = bytearray(), 0, True
    closing = {"connection": "close"}
    try:
        async with asyncio.timeout(BODY_S):
            while more and size <= DROPPED_BYTES:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return None
                part = message.get("body", b"")
                size, more = size + len(part), message.get("more_body", False)
                body += part if size <= MAX_BODY_BYTES else b""
    except TimeoutError:
        late = f"the body did not arrive within {BODY_S:.0f} s"
        raise ApiError(408, "timeout", late, headers=closing) from None
    if size > MAX_BODY_BYTES:
        raise ApiError(
            413, "too-large", f"the body has more than {MAX_BODY_BYTES >> 20} MiB", headers=closing
        )
    return bytes(body)


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _never() -> NoReturn:
    """What a response that watches for the end of the connection is told: the endpoint watches itself."""
    await asyncio.Event().wait()
    raise AssertionError("never set")
