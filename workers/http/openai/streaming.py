"""The stream of an answer: chunks as server-sent events, and `[DONE]` at its end."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

import orjson
from starlette.responses import Response, StreamingResponse

from schemas.response import GenerationResponse, ResponseDelta
from workers.http.errors import as_api_error
from workers.http.openai.answers import Chat, Completion
from workers.http.openai.shapes import error_of
from workers.http.shared import checked

PING_S = 15.0
"""How long a stream is silent before a comment tells the proxies between that it goes on."""

Pieces = AsyncGenerator[ResponseDelta | GenerationResponse, None]


async def streamed(
    kind: Chat | Completion,
    pieces: Pieces,
    usage: bool,
    extra: Callable[[GenerationResponse], dict[str, Any]],
) -> Response:
    """The response of a streamed answer. What fails before the first piece is an error with a status.

    Raises as `LoopClient.stream` does.
    """
    try:
        first = await anext(pieces)
        if isinstance(first, GenerationResponse):
            checked(first)
    except BaseException:
        await pieces.aclose()
        raise
    events = _events(kind, first, pieces, usage, extra)
    return StreamingResponse(events, media_type="text/event-stream", headers={"x-accel-buffering": "no"})


async def _events(
    kind: Chat | Completion,
    first: ResponseDelta | GenerationResponse,
    pieces: Pieces,
    usage: bool,
    extra: Callable[[GenerationResponse], dict[str, Any]],
) -> AsyncGenerator[bytes, None]:
    without: dict[str, Any] = {"usage": None} if usage else {}
    at = sent = 0  # characters, and tokens with their log-probabilities, that were sent
    async with aclosing(pieces):
        for chunk in kind.first():
            yield _event(chunk | without)
        try:
            async for piece in _with_pings(first, pieces):
                if piece is None:
                    yield b": waiting\n\n"
                elif isinstance(piece, ResponseDelta):
                    yield _event(kind.piece(piece, at) | without)
                    at, sent = at + len(piece.delta), sent + len(piece.tokens or ())
                else:
                    answer = checked(piece)
                    yield _event(kind.last(answer, sent) | without | {"factstream": extra(answer)})
                    if usage:
                        yield _event(kind.counted(answer))
        except Exception as error:  # the status has been sent: OpenAI's clients raise what an event says
            yield _event(error_of(as_api_error(error)))
        yield b"data: [DONE]\n\n"


async def _with_pings(
    first: ResponseDelta | GenerationResponse, pieces: Pieces
) -> AsyncGenerator[ResponseDelta | GenerationResponse | None, None]:
    """The pieces, and None after each long silence."""
    yield first
    while True:
        waiting = asyncio.ensure_future(anext(pieces, _END))
        try:
            while not (await asyncio.wait({waiting}, timeout=PING_S))[0]:
                yield None
        except BaseException:
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            raise
        piece = waiting.result()
        if piece is _END:
            return
        yield piece


_END: Any = object()


def _event(chunk: dict[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(chunk) + b"\n\n"
