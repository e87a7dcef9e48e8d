"""A generator without a model, which answers requests on the embedded broker as a test says."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from schemas import topics
from schemas.reply import return_address
from schemas.request import GenerationRequest, decode_request
from workers.client.tail import Tail
from workers.generate.inflight import Pending
from workers.generate.reply_topics import ReplyTopics
from workers.generate.responses import Responder
from workers.kafka.admin import ensure_topics
from workers.kafka.config import KafkaSettings

Answer = Callable[[Responder, Pending], object]


def echo(responder: Responder, p: Pending) -> None:
    """An error whose message is the prompt: the one response that needs no model."""
    responder.fail(p.address, "echo", p.request.prompt or "")


@contextmanager
def answering(settings: KafkaSettings, answer: Answer = echo) -> Iterator[list[GenerationRequest]]:
    """Answers requests for the length of the block. Returns the list of those that arrive."""
    ensure_topics(settings)
    tail, producer, stop = (
        Tail(settings, (topics.GENERATION_REQUESTS,)),
        settings.producer("gzip"),
        threading.Event(),
    )
    responder, reply_topics = (
        Responder(producer, settings.partitions),
        ReplyTopics(settings, settings.partitions),
    )
    seen: list[GenerationRequest] = []

    def take(record: Any) -> None:
        address = return_address(
            record.key, record.headers, record.partition, record.offset, record.timestamp
        )
        address = reply_topics.checked(address, record.headers)
        seen.append(request := decode_request(record.value))
        answer(responder, Pending(record, address, request, 0.0))
        producer.flush_or_raise()

    def run() -> None:
        while not stop.is_set():
            for record in tail.poll():
                take(record)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join()
        producer.close()
        tail.close()
