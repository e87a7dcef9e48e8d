"""Answers and decisions as they come: calls of the client, in threads, told to the page as server-sent events.

A form leaves a ticket, and the stream that shows what comes of it takes the ticket: it runs once, however often a
browser connects again. Knows the client and the tickets; how an event looks is said by who makes it.
"""

import asyncio
import secrets
import threading
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from kafka.errors import KafkaError

from schemas.common import BadMessage
from schemas.fact import Fact
from schemas.request import GenerationRequest
from schemas.response import GenerationResponse, ResponseDelta
from workers import client
from workers.client import positions
from workers.kafka.admin import TopicsMismatch, TopicsMissing
from workers.kafka.clients import KafkaSettings, KafkaUnavailable
from workers.observe import log

MAX_TICKETS = 64
MAX_STREAMS = 16
TIMEOUT_S = 120.0

Going = Callable[[], bool]
"""Whether somebody still looks."""
Work = Callable[[Going], Iterator[str]]
"""Makes the events of one stream."""


class Failed(Exception):
    """It did not work out; the text says so to a person."""


class Tickets:
    """Work that a form asked for and no stream has begun yet, the newest of it."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[str, Work] = OrderedDict()
        self.running = 0

    def leave(self, work: Work) -> str:
        ticket = secrets.token_urlsafe(16)
        self._waiting[ticket] = work
        while len(self._waiting) > MAX_TICKETS:
            self._waiting.popitem(last=False)
        return ticket

    def take(self, ticket: str) -> Work | None:
        return self._waiting.pop(ticket, None)


async def run(tickets: Tickets, work: Work) -> AsyncIterator[str]:
    """The events of the work, which goes on in a thread of its own until it ends or nobody looks any more."""
    loop, events = asyncio.get_running_loop(), asyncio.Queue[str | None]()
    left = threading.Event()

    def tell(event: str | None) -> None:
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(events.put_nowait, event)

    def labour() -> None:
        try:
            for event in work(lambda: not left.is_set()):
                tell(event)
        except Exception as error:  # a bug: the page must not wait for ever
            log.line(f"stream failed: {error!r}"[:300], log.WARNING)
        finally:
            tell(None)

    tickets.running += 1
    threading.Thread(target=labour, name="stream", daemon=True).start()
    try:
        while (event := await events.get()) is not None:
            yield event
    finally:
        left.set()
        tickets.running -= 1


def event(name: str, html: str) -> str:
    """One server-sent event. A line break in the text is one `data:` more."""
    lines = html.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return f"event: {name}\n" + "".join(f"data: {line}\n" for line in lines) + "\n"


def answer(
    settings: KafkaSettings, data: Path, request: GenerationRequest, going: Going
) -> Iterator[str | GenerationResponse]:
    """The pieces of the answer's text, and last the whole answer. Raises `Failed`."""
    recent = positions.recall(data, request.namespaces) if request.use_memory else None
    with _plain_words():
        for piece in client.ask(settings, request, recent, TIMEOUT_S, going):
            if isinstance(piece, ResponseDelta):
                yield piece.delta
            elif piece.error:
                raise Failed(f"No answer: {piece.error.message} ({piece.error.reason}).")
            else:
                yield piece


def publish(settings: KafkaSettings, data: Path, namespace: str, fact: Fact) -> client.Published:
    """When the fact is decided. Raises `Failed`."""
    with _plain_words():
        done = client.publish(settings, [(namespace, fact)], wait=True)
        positions.remember(data, done.after)
        return done


@contextmanager
def _plain_words() -> Iterator[None]:
    """What goes wrong on the way to the workers, as `Failed`."""
    try:
        yield
    except (KafkaUnavailable, client.ClientError, TopicsMissing, TopicsMismatch, BadMessage) as error:
        raise Failed(_sentence(error)) from error
    except KafkaError as error:
        raise Failed(f"The broker refused: {_sentence(error)}") from error


def _sentence(error: Exception) -> str:
    text = str(error)[:500]
    return f"{text[:1].upper()}{text[1:].rstrip('.?')}{'?' if text.endswith('?') else '.'}"
