"""Requests and their answers: many at a time over one producer and one reader, each a future."""

import queue
import random
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

from opentelemetry.trace import Span, SpanKind

from schemas import topics
from schemas.changelog import MAX_CHANGELOG_BYTES
from schemas.common import encode, parse_json, validate
from schemas.reply import SPRING_PARTITION
from schemas.request import GenerationRequest
from schemas.response import GenerationResponse, ResponseDelta
from workers.client.errors import Busy, ClientError
from workers.client.positions import Positions
from workers.client.tail import Tail
from workers.kafka.admin import ensure_topics
from workers.kafka.config import KafkaSettings
from workers.kafka.errors import KafkaError, KafkaUnavailable
from workers.kafka.partitioner import partitions_for
from workers.observe import tracing

MAX_WAITING = 1000
"""Requests of a client that wait for their answers at the same time."""
TIMEOUT_S = 120.0
RETRY_S = 0.5
_TOPICS = (topics.GENERATION_REQUESTS, topics.GENERATION_RESPONSES)


@dataclass
class _Waiting:
    """A request that was sent, and whose answer has not arrived."""

    future: "Future[GenerationResponse]"
    on_delta: Callable[[ResponseDelta], object]
    span: Span
    until: float  # monotonic
    timeout_s: float
    deltas: int = 0

    def piece(self, delta: ResponseDelta) -> None:
        if delta.index == self.deltas:  # a restarted generator sends deltas again
            self.deltas += 1
            self.on_delta(delta)

    def end(self, result: GenerationResponse | BaseException) -> None:
        """Completes the future, unless the caller has cancelled it."""
        if isinstance(result, BaseException):
            tracing.fail(self.span, type(result).__name__)
        elif result.error:
            tracing.fail(self.span, result.error.reason)
        self.span.end()
        if not self.future.set_running_or_notify_cancel():
            return
        if isinstance(result, BaseException):
            self.future.set_exception(result)
        else:
            self.future.set_result(result)


class Client:
    """A connection for many requests, usable from any thread. Close it, or use it as a context manager.

    It reads one partition of the responses, chosen at random, and asks for its answers there. The connection outlives
    restarts of the broker, but not a broker that comes back empty: requests then end with ClientError, as without a
    generator. Raises KafkaError, KafkaUnavailable.
    """

    def __init__(self, settings: KafkaSettings) -> None:
        self._topic_ids = ensure_topics(settings, _TOPICS)
        self._settings = settings
        self._waiting: dict[bytes, _Waiting] = {}
        self._lock = threading.Lock()  # of the dictionary
        self._sending = threading.Lock()  # of the producer
        self._closed: BaseException | None = None
        self._tail = Tail(
            settings, (topics.GENERATION_RESPONSES,), choose=lambda every: [random.choice(every)]
        )
        (self._partition,) = {tp.partition for tp in self._tail.partitions}
        self._partitions = len(self._tail.every)  # of the requests, too: all topics have equally many
        try:
            self._producer = settings.producer()
        except BaseException:
            self._tail.close()
            raise
        self._reader = threading.Thread(target=self._read, name="factstream answers", daemon=True)
        self._reader.start()

    def submit(
        self,
        request: GenerationRequest,
        recent: Positions | None = None,
        timeout_s: float = TIMEOUT_S,
        on_delta: Callable[[ResponseDelta], object] = lambda delta: None,
        parent: str | None = None,
    ) -> "Future[GenerationResponse]":
        """Sends a request. Returns the future of its response, which may be an error; cancel it to give it up.

        `recent`: positions that the answering memory must have reached, used if the request has no `after`. Positions
        of another cluster's topics are left out. `on_delta` gets the deltas of a streamed answer, each once and in
        order, on the client's own thread. After `timeout_s` seconds the future raises ClientError. `parent`: the trace context
        that the request belongs to.
        Raises ClientError (closed, too many requests wait, or others could not be sent), KafkaError.
        """
        if recent and request.after is None:
            request = request.model_copy(update={"after": self._on_this_cluster(recent)})
        request_id = uuid.uuid4().hex
        with self._lock:
            if self._closed:
                raise ClientError(f"this client is closed: {self._closed}")
            if len(self._waiting) >= MAX_WAITING:
                raise Busy(f"{MAX_WAITING} requests wait for their answers already")
            attributes = {"factstream.request_id": request_id}
            span = tracing.begin("request", parent, SpanKind.CLIENT, attributes=attributes)
            waiting = _Waiting(Future(), on_delta, span, time.monotonic() + timeout_s, timeout_s)
            self._waiting[request_id.encode()] = waiting
        headers = [(SPRING_PARTITION, self._partition.to_bytes(4, "big"))]
        headers += tracing.header(tracing.context_of(span))
        try:
            if not self._sending.acquire(timeout=timeout_s):  # others wait for a broker that is away
                raise ClientError(f"not sent within {timeout_s:.0f} s: does the broker answer?")
            try:
                key, place = request_id.encode(), self._place(request)
                self._producer.send(topics.GENERATION_REQUESTS, encode(request), key, place, headers)
                self._producer.flush_or_raise()
            finally:
                self._sending.release()
        except BaseException as error:
            self._end(request_id.encode(), error)
            raise
        return waiting.future

    def ask(
        self,
        request: GenerationRequest,
        recent: Positions | None = None,
        timeout_s: float = TIMEOUT_S,
        wanted: Callable[[], bool] = lambda: True,
    ) -> Iterator[ResponseDelta | GenerationResponse]:
        """Sends a request as `submit` does, and yields its deltas and last its response.

        Ends early once `wanted()` is false. Raises ClientError, KafkaError.
        """
        pieces: queue.SimpleQueue[Any] = queue.SimpleQueue()  # no more pieces than the answer has tokens
        future = self.submit(request, recent, timeout_s, pieces.put)
        future.add_done_callback(pieces.put)
        try:
            while wanted():
                try:
                    piece = pieces.get(timeout=0.1)
                except queue.Empty:
                    continue
                if piece is future:
                    yield future.result()
                    return
                yield piece
        finally:
            future.cancel()

    @property
    def closed(self) -> bool:
        return self._closed is not None

    def outdated(self) -> bool:
        """Whether the broker has lost the topics of this connection, as an embedded one does when it starts anew."""
        try:
            return ensure_topics(self._settings, _TOPICS) != self._topic_ids
        except (KafkaError, KafkaUnavailable):  # it may come back as it was
            return False

    def _place(self, request: GenerationRequest) -> int | None:
        """The partition of the memories that a request needs, if generators hold partitions; None for any partition."""
        homes = partitions_for(request.remembered, self._partitions) if self._settings.partitioned else ()
        return next(iter(homes)) if len(homes) == 1 else None

    def _on_this_cluster(self, recent: Positions) -> Positions:
        """The positions on this cluster's topic of facts."""
        return {
            namespace: {log: offset for log, offset in logs.items() if log.startswith(f"{self._facts_id}/")}
            for namespace, logs in recent.items()
        }

    @cached_property
    def _facts_id(self) -> str:
        return ensure_topics(self._settings, (topics.FACTS,))[topics.FACTS]

    def _read(self) -> None:
        while not self._closed:
            try:
                for record in self._tail.poll():
                    self._take(record)
            except Exception as error:  # whatever it is, nobody may wait for ever
                if not (isinstance(error, KafkaError) and error.retriable):
                    self._shut(error)
                time.sleep(RETRY_S)
            self._expire()

    def _take(self, record: Any) -> None:
        with self._lock:
            waiting = self._waiting.get(record.key)
        if waiting is None:  # another client's
            return
        result: GenerationResponse | Exception
        try:
            body = parse_json(record.value, MAX_CHANGELOG_BYTES)
            if "delta" in body:
                waiting.piece(validate(ResponseDelta, body))
                return
            result = validate(GenerationResponse, body)
        except Exception as error:  # not a response, or `on_delta` failed
            result = error
        self._end(record.key, result)

    def _expire(self) -> None:
        """Ends the requests whose time is up, and drops those that were cancelled."""
        now = time.monotonic()
        with self._lock:
            late = [(key, w) for key, w in self._waiting.items() if w.until < now or w.future.cancelled()]
        for key, waiting in late:
            self._end(
                key, ClientError(f"no answer within {waiting.timeout_s:.0f} s: is a generator running?")
            )

    def _end(self, key: bytes, result: GenerationResponse | BaseException) -> None:
        with self._lock:
            waiting = self._waiting.pop(key, None)
        if waiting:
            waiting.end(result)

    def _shut(self, reason: BaseException) -> None:
        """Takes no more requests, and ends those that wait."""
        with self._lock:
            self._closed = self._closed or reason
            keys = list(self._waiting)
        for key in keys:
            self._end(key, reason)

    def close(self) -> None:
        """Ends the requests that wait, with ClientError, and closes the connections."""
        self._shut(ClientError("closed by its owner"))
        if threading.current_thread() is not self._reader:  # as it is in a callback of a future
            self._reader.join()
        with self._sending:
            self._producer.close()
        self._tail.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def ask(
    settings: KafkaSettings,
    request: GenerationRequest,
    recent: Positions | None = None,
    timeout_s: float = TIMEOUT_S,
    wanted: Callable[[], bool] = lambda: True,
) -> Iterator[ResponseDelta | GenerationResponse]:
    """Sends one request over a connection of its own: see `Client.ask`. Raises ClientError, KafkaError, KafkaUnavailable."""
    with Client(settings) as client:
        yield from client.ask(request, recent, timeout_s, wanted)
