"""A generation request: sends it and reads its answer, piece by piece."""

import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing

from opentelemetry.trace import SpanKind

from schemas import topics
from schemas.changelog import MAX_CHANGELOG_BYTES
from schemas.common import encode, parse_json, validate
from schemas.request import GenerationRequest
from schemas.response import GenerationResponse, ResponseDelta
from workers.client.errors import ClientError
from workers.client.positions import Positions
from workers.client.tail import Tail
from workers.kafka.admin import ensure_topics
from workers.kafka.config import KafkaSettings
from workers.observe import tracing


def ask(
    settings: KafkaSettings,
    request: GenerationRequest,
    recent: Positions | None = None,
    timeout_s: float = 120.0,
    wanted: Callable[[], bool] = lambda: True,
) -> Iterator[ResponseDelta | GenerationResponse]:
    """Sends a request and yields its deltas, each once and in order, and last its response.

    `recent`: positions that the answering memory must have reached, used if the request has no `after`.
    Positions of another cluster's topics are left out. Ends early once `wanted()` is false, and raises ClientError
    if there is no response within `timeout_s` seconds.
    Raises ClientError, KafkaError, KafkaUnavailable.
    """
    request = _with_positions(request, recent, ensure_topics(settings)[topics.FACTS])
    request_id = uuid.uuid4().hex
    span = tracing.begin("request", kind=SpanKind.CLIENT, attributes={"factstream.request_id": request_id})
    with closing(Tail(settings, (topics.GENERATION_RESPONSES,))) as tail, tracing.ended(span):
        _send(settings, request, request_id, tracing.header(tracing.context_of(span)))
        deadline, expected = time.monotonic() + timeout_s, 0
        while time.monotonic() < deadline:
            if not wanted():
                return
            for record in tail.poll():
                if record.key != request_id.encode():
                    continue
                body = parse_json(record.value, MAX_CHANGELOG_BYTES)
                if "delta" not in body:
                    response = validate(GenerationResponse, body)
                    if response.error:
                        tracing.fail(span, response.error.reason)
                    yield response
                    return
                delta = validate(ResponseDelta, body)
                if delta.index == expected:  # a restarted generator sends deltas again
                    expected += 1
                    yield delta
    raise ClientError(f"no answer within {timeout_s:.0f} s: is a generator running?")


def _with_positions(request: GenerationRequest, recent: Positions | None, topic_id: str) -> GenerationRequest:
    """The request with `after` set to the positions on this cluster's topic of facts."""
    if not recent or request.after is not None:
        return request
    after = {
        namespace: {log: offset for log, offset in logs.items() if log.startswith(f"{topic_id}/")}
        for namespace, logs in recent.items()
    }
    return request.model_copy(update={"after": after})


def _send(
    settings: KafkaSettings, request: GenerationRequest, request_id: str, headers: list[tuple[str, bytes]]
) -> None:
    with closing(settings.producer()) as producer:
        producer.send(topics.GENERATION_REQUESTS, encode(request), request_id.encode(), headers=headers)
        producer.flush_or_raise()
