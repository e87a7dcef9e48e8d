"""OpenTelemetry traces: the spans in which a fact becomes a decision and a request becomes a response.

A context travels in the Kafka header `traceparent` (W3C Trace Context). A message of several facts has one header
`traceparents` instead: their contexts, in order, separated by commas. Each fact has its own span in each stage, although
it is processed together with others, so that its trace shows its whole way.

Spans are exported as OTEL_TRACES_EXPORTER says (`otlp` or `console`; OpenTelemetry's other variables work too). Without
it nothing is recorded, and received contexts are passed on. No text of a fact or a prompt is in a span.
"""

import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import entry_points
from typing import Any

from opentelemetry import trace
from opentelemetry.trace import SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

HEADER, HEADERS = "traceparent", "traceparents"
MAX_CONTEXTS = 256
"""Most contexts that are read from one message."""

Headers = list[tuple[str, bytes]]

_TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_EXPORTERS = {"otlp": "otlp_proto_http"}  # as its package names it
_W3C = TraceContextTextMapPropagator()
_tracer = trace.get_tracer("factstream")

now = time.time_ns
"""The time at which a span begins or ends: nanoseconds since the epoch."""


def setup(service: str) -> None:
    """Export this process's spans as OTEL_TRACES_EXPORTER says. Raises ValueError if there is no such exporter.

    A thread of its own sends them from a bounded queue: a collector that is away costs spans and no time.

    The SDK's own configuration is not used: it starts metrics and logs as well, and takes `otlp` to be gRPC, which is
    not installed.
    """
    names = [name.strip() for name in os.environ.get("OTEL_TRACES_EXPORTER", "").split(",")]
    names = [name for name in names if name not in ("", "none")]
    if not names or os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    service = os.environ.get("OTEL_SERVICE_NAME") or f"factstream-{service}"
    provider = TracerProvider(resource=Resource.create({"service.name": service}))
    for name in names:
        found = entry_points(group="opentelemetry_traces_exporter", name=_EXPORTERS.get(name, name))
        if not found:
            raise ValueError(
                f"OTEL_TRACES_EXPORTER: no exporter {name[:40]!r} is installed; "
                "pip install 'factstream[otlp]' has otlp"
            )
        provider.add_span_processor(BatchSpanProcessor(next(iter(found)).load()()))
    trace.set_tracer_provider(provider)


def of(headers: Iterable[tuple[str, bytes | None]]) -> str | None:
    """The context in a record's headers; None if there is no valid one: any client may write headers."""
    return next((_valid(value) for name, value in headers if name == HEADER), None)


def of_rows(headers: Iterable[tuple[str, bytes | None]], rows: int) -> list[str | None]:
    """The contexts of a message of that many facts, in order."""
    for name, value in headers:
        if name == HEADERS and value and len(value) <= MAX_CONTEXTS * 56:
            parts = value.split(b",")
            if len(parts) == rows:
                return [_valid(part) for part in parts]
    return [None] * rows


def _valid(value: bytes | None) -> str | None:
    text = (value or b"")[:56].decode("ascii", "replace")
    return text if _TRACEPARENT.fullmatch(text) else None


def header(context: str | None) -> Headers:
    """The header that passes a context on."""
    return [(HEADER, context.encode())] if context else []


def headers_of_rows(contexts: Sequence[str | None]) -> Headers:
    """The header of a message of several facts."""
    return [(HEADERS, ",".join(c or "" for c in contexts).encode())] if any(contexts) else []


def begin(
    name: str,
    parent: str | None = None,
    kind: SpanKind = SpanKind.CONSUMER,
    since: int | None = None,
    attributes: Mapping[str, Any] | None = None,
) -> trace.Span:
    """A span under `parent` that starts at `since` (nanoseconds since the epoch) or now; the caller ends it."""
    context = _W3C.extract({HEADER: parent}) if parent else trace.set_span_in_context(trace.INVALID_SPAN)
    known = {key: value for key, value in (attributes or {}).items() if value is not None}
    return _tracer.start_span(name, context, kind, {"messaging.system": "kafka", **known}, start_time=since)


@contextmanager
def within(span: trace.Span) -> Iterator[None]:
    """The span is the `current` one in this block, and in the tasks that it starts; the caller ends it."""
    with trace.use_span(span, record_exception=False, set_status_on_exception=False):
        yield


def current() -> str | None:
    """The context of the span that this code runs within; None outside of any."""
    return context_of(trace.get_current_span())


def context_of(span: trace.Span) -> str | None:
    carrier: dict[str, str] = {}
    _W3C.inject(carrier, trace.set_span_in_context(span))
    return carrier.get(HEADER)


def fail(span: trace.Span, error: str) -> None:
    span.set_status(StatusCode.ERROR, error[:200])


@contextmanager
def ended(span: trace.Span) -> Iterator[None]:
    """End the span at the end of the block, as failed if the block raises."""
    try:
        yield
    except Exception as error:
        fail(span, type(error).__name__)
        raise
    finally:
        span.end()


def done(
    name: str, parent: str | None, since: int, attributes: Mapping[str, Any], error: str | None = None,
    kind: SpanKind = SpanKind.CONSUMER,
) -> str | None:  # fmt: skip
    """Record a span that began at `since` and ends now. Returns its context; None if there is none to pass on."""
    span = begin(name, parent, kind, since, attributes)
    if error is not None:
        fail(span, error)
    span.end()
    return context_of(span)


def decided(decisions: Iterable[Any], parents: Mapping[Any, str | None], since: int) -> None:
    """Record a span for each decision (pipeline.memory.events.Decision) whose cause, a SourceOffset, has a parent context."""
    for d in decisions:
        if d.cause in parents:
            done("decide", parents[d.cause], since, {
                "messaging.destination.name": d.cause.topic,
                "messaging.destination.partition.id": str(d.cause.partition),
                "messaging.kafka.offset": d.cause.offset, "factstream.namespace": d.namespace,
                "factstream.outcome": d.outcome, "factstream.loss_delta": d.loss_delta,
                "factstream.memory_id": d.memory_id,
            })  # fmt: skip


def stage(
    name: str, record: Any, since: int, attributes: Mapping[str, Any] | None = None, error: str | None = None
) -> str | None:
    """Record the work on a consumed record, from `since` to now, as a span under the record's context; as `done`."""
    return done(name, of(record.headers), since, where(record) | dict(attributes or {}), error)


def where(record: Any) -> dict[str, Any]:
    """A record's coordinates, as a span's attributes."""
    return {
        "messaging.destination.name": record.topic, "messaging.destination.partition.id": str(record.partition),
        "messaging.kafka.offset": record.offset,
    }  # fmt: skip
