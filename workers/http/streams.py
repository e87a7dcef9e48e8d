"""Server-sent events: streams answers and decisions to a page while they arrive.

A form adds work under a ticket, and the stream that shows its results takes the ticket: the work runs once,
however often a browser reconnects.
"""

import asyncio
import secrets
import threading
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from schemas.common import BadMessage
from schemas.fact import Fact
from schemas.request import GenerationRequest
from schemas.response import GenerationResponse, ResponseDelta
from workers import client
from workers.client import positions
from workers.kafka.config import KafkaSettings
from workers.kafka.errors import KafkaError, KafkaUnavailable, TopicsMismatch, TopicsMissing
from workers.observe import log

MAX_TICKETS = 64
MAX_STREAMS = 16
TIMEOUT_S = 120.0

Wanted = Callable[[], bool]
"""Whether the browser still reads the stream."""
Work = Callable[[Wanted], Iterator[str]]
"""Yields the events of one stream."""


class Failed(Exception):
    """A request failed. The text is shown on the page."""


class Tickets:
    """The newest work that no stream has begun yet, and the number of running streams."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[str, Work] = OrderedDict()
        self.running = 0

    def add(self, work: Work) -> str:
        """Keeps work for a stream. Returns its ticket."""
        ticket = secrets.token_urlsafe(16)
        self._waiting[ticket] = work
        while len(self._waiting) > MAX_TICKETS:
            self._waiting.popitem(last=False)
        return ticket

    def take(self, ticket: str) -> Work | None:
        return self._waiting.pop(ticket, None)


async def run(tickets: Tickets, work: Work) -> AsyncIterator[str]:
    """The events of the work, which runs in a thread of its own until it ends or the browser leaves."""
    loop, events = asyncio.get_running_loop(), asyncio.Queue[str | None]()
    left = threading.Event()

    def send(event: str | None) -> None:
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(events.put_nowait, event)

    def produce() -> None:
        try:
            for event in work(lambda: not left.is_set()):
                send(event)
        except Exception as error:  # a bug must not leave the page waiting for ever
            log.line(f"stream failed: {error!r}"[:300], log.WARNING)
        finally:
            send(None)

    tickets.running += 1
    threading.Thread(target=produce, name="stream", daemon=True).start()
    try:
        while (event := await events.get()) is not None:
            yield event
    finally:
        left.set()
        tickets.running -= 1


def event(name: str, html: str) -> str:
    """One server-sent event, with one `data:` for each line of the text."""
    lines = html.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return f"event: {name}\n" + "".join(f"data: {line}\n" for line in lines) + "\n"


def answer(
    settings: KafkaSettings, data: Path, request: GenerationRequest, wanted: Wanted
) -> Iterator[str | GenerationResponse]:
    """The pieces of the answer's text, and last the whole answer. Raises `Failed`."""
    recent = positions.recall(data, request.namespaces) if request.use_memory else None
    with as_failed():
        for piece in client.ask(settings, request, recent, TIMEOUT_S, wanted):
            if isinstance(piece, ResponseDelta):
                yield piece.delta
            elif piece.error:
                raise Failed(f"No answer: {piece.error.message} ({piece.error.reason}).")
            else:
                yield piece


def publish(settings: KafkaSettings, data: Path, namespace: str, fact: Fact) -> client.Published:
    """Returns when the fact is decided. Raises `Failed`."""
    with as_failed():
        published = client.publish(settings, [(namespace, fact)], wait=True)
        positions.remember(data, published.after)
        return published


@contextmanager
def as_failed() -> Iterator[None]:
    """Turns the errors of the client and of Kafka into `Failed`."""
    try:
        yield
    except (KafkaUnavailable, client.ClientError, TopicsMissing, TopicsMismatch, BadMessage) as error:
        raise Failed(_sentence(error)) from error
    except KafkaError as error:
        raise Failed(f"The broker refused: {_sentence(error)}") from error


def _sentence(error: Exception) -> str:
    text = str(error)[:500]
    return f"{text[:1].upper()}{text[1:].rstrip('.?')}{'?' if text.endswith('?') else '.'}"
