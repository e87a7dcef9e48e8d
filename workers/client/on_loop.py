"""The client on an event loop, for servers: it asks and publishes, and never blocks the loop.

One connection serves all requests. It is made at the first one, and anew after it has failed or after the broker came back
empty. A task that is cancelled gives up its request at once. What is sent belongs to the trace that the task runs within.
"""

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import aclosing, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from schemas.fact import FactMessage
from schemas.request import GenerationRequest
from schemas.response import GenerationResponse, ResponseDelta
from workers.client.asking import TIMEOUT_S, Client
from workers.client.errors import Busy, ClientError
from workers.client.positions import Positions
from workers.client.publishing import Published, publish
from workers.kafka.config import KafkaSettings
from workers.observe import tracing

MAX_RUNNING = 256
"""Requests, and apart from them publications, that run at the same time."""
SENDERS, PUBLISHERS = 8, 4
WAITERS = 32
"""Publications that wait for their decisions at the same time, a thread each, apart from those that do not wait.

Where a decision took one second, the last of 200 was decided after 67 s with 4 threads, 24 s with 16 and 17 s with 32.
"""
CONNECT_TIMEOUT_S = 3.0
FAILED_FOR_S = 1.0
"""How long a failed connection is not tried again: those that waited for it fail with it."""


class LoopClient:
    """Requests and publications of a server. Close it."""

    def __init__(
        self,
        settings: KafkaSettings,
        timeout_s: float = TIMEOUT_S,
        connect: Callable[[KafkaSettings], Client] = Client,
    ) -> None:
        self.timeout_s = timeout_s
        self.running = 0
        """Requests that wait for their answers."""
        self._settings, self._connect = replace(settings, connect_timeout_s=CONNECT_TIMEOUT_S), connect
        self._publishing, self._closed = 0, False
        self._senders = ThreadPoolExecutor(SENDERS, "asking")
        self._publishers = ThreadPoolExecutor(PUBLISHERS, "publishing")
        self._waiters = ThreadPoolExecutor(WAITERS, "deciding")
        self._lock = threading.Lock()  # of the connection
        self._client: Client | None = None
        self._failed: tuple[float, Exception] | None = None  # when the last connection failed, and how

    @property
    def partitioned(self) -> bool:
        """Whether a generator may hold the memories of some namespaces only."""
        return self._settings.partitioned

    async def ask(self, request: GenerationRequest, recent: Positions | None = None) -> GenerationResponse:
        """The response, which may be an error. Raises ClientError, KafkaError, KafkaUnavailable."""
        async with aclosing(self.stream(request, recent)) as pieces:
            async for piece in pieces:
                if isinstance(piece, GenerationResponse):
                    return piece
        raise ClientError("no answer")

    async def stream(
        self, request: GenerationRequest, recent: Positions | None = None
    ) -> AsyncGenerator[ResponseDelta | GenerationResponse, None]:
        """The deltas, and last the response, from a memory that has reached `recent`, or in its absence from it as it is.

        The generator waits for `recent` for a while. One that cannot answer within the client's time does not begin.
        Raises as `ask` does.
        """
        end = datetime.now(UTC) + timedelta(seconds=self.timeout_s)
        request = request.model_copy(update={"deadline": end})
        async with aclosing(self._stream(request, recent)) as pieces:
            async for piece in pieces:
                if recent and _is_behind(piece):
                    break
                yield piece
            else:
                return
        async with aclosing(self._stream(request, None)) as pieces:
            async for piece in pieces:
                yield piece

    async def _stream(
        self, request: GenerationRequest, recent: Positions | None
    ) -> AsyncGenerator[ResponseDelta | GenerationResponse, None]:
        if self._closed:
            raise ClientError("the server is stopping")
        if self.running >= MAX_RUNNING:
            raise Busy(f"{MAX_RUNNING} requests wait for their answers already; try again")
        self.running += 1
        future: Future[GenerationResponse] | None = None
        try:
            loop, pieces = (
                asyncio.get_running_loop(),
                asyncio.Queue[Any](),
            )  # no more than the answer's tokens

            def arrived(piece: object) -> None:
                with suppress(RuntimeError):  # the loop has ended
                    loop.call_soon_threadsafe(pieces.put_nowait, piece)

            submit = partial(self._submit, request, recent, arrived, tracing.current())
            future = await _outcome(loop.run_in_executor(self._senders, submit))
            future.add_done_callback(arrived)
            while (piece := await pieces.get()) is not future:
                yield piece
            try:
                yield future.result()
            except ClientError:
                if self._closed:
                    raise
                await loop.run_in_executor(self._senders, self._check)
                raise
        finally:
            self.running -= 1
            if future:
                future.cancel()

    async def publish(self, facts: Sequence[tuple[str, FactMessage]], wait: bool = False) -> Published:
        """Sends (namespace, fact) pairs; with `wait`, until they are decided. Raises as `client.publish` does."""
        if self._closed:
            raise ClientError("the server is stopping")
        if self._publishing >= MAX_RUNNING:
            raise Busy(f"{MAX_RUNNING} publications wait already; try again")
        self._publishing += 1
        threads = self._waiters if wait else self._publishers
        try:
            send = partial(publish, self._settings, facts, wait, self._goes_on, parent=tracing.current())
            return await asyncio.get_running_loop().run_in_executor(threads, send)
        finally:
            self._publishing -= 1

    def _goes_on(self, sent: int, decided: int) -> None:
        """Ends a publication that waits while the process stops: its thread would hold the process."""
        if self._closed:
            raise ClientError("the server is stopping: what was sent is decided later")

    def close(self) -> None:
        """Ends the requests and publications that wait, with ClientError. It may be called from any thread, and twice."""
        self._closed = True
        self._senders.shutdown(wait=False, cancel_futures=True)
        self._publishers.shutdown(wait=False, cancel_futures=True)
        self._waiters.shutdown(wait=False, cancel_futures=True)
        self._drop()

    def _submit(
        self,
        request: GenerationRequest,
        recent: Positions | None,
        on_delta: Callable[[ResponseDelta], object],
        parent: str | None,
    ) -> "Future[GenerationResponse]":
        return self._connected().submit(request, recent, self.timeout_s, on_delta, parent)

    def _connected(self) -> Client:
        with self._lock:
            if self._client and not self._client.closed:
                return self._client
            if self._failed and time.monotonic() - self._failed[0] < FAILED_FOR_S:
                raise self._failed[1]
            try:
                self._client = self._connect(self._settings)
            except Exception as error:
                self._failed = time.monotonic(), error
                raise
            return self._client

    def _check(self) -> None:
        """Drops the connection if the broker has lost the topics that it reads."""
        with self._lock:
            client = self._client
        if client and client.outdated():
            self._drop()

    def _drop(self) -> None:
        with self._lock:
            client, self._client = self._client, None
        if client:
            client.close()


def _is_behind(piece: ResponseDelta | GenerationResponse) -> bool:
    """Whether the memory has not reached what the request asked for, and so gives no answer."""
    error = piece.error if isinstance(piece, GenerationResponse) else None
    return error is not None and error.reason == "behind"


async def _outcome(submitted: "asyncio.Future[Future[GenerationResponse]]") -> "Future[GenerationResponse]":
    """The future of a request that a thread submits. If the task is cancelled meanwhile, so is the request."""
    try:
        return await asyncio.shield(submitted)
    except asyncio.CancelledError:
        submitted.add_done_callback(_give_up)
        raise


def _give_up(submitted: "asyncio.Future[Future[GenerationResponse]]") -> None:
    if not submitted.cancelled() and not submitted.exception():
        submitted.result().cancel()
