"""What a worker tells Prometheus and whoever asks whether it is well: its metrics, and the port they are read from.

It knows names, labels and buckets, and three pages: `/metrics`, `/healthz` (200 unless the worker stands still) and
`/readyz` (200 while it has joined its group and its last turn went well). The metrics are this process's, so they are
kept whether the port is open or not. No text of a fact, a prompt or an answer is in them.
"""

import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any, get_args

from kafka import KafkaConsumer
from kafka.errors import KafkaError
from prometheus_client import CONTENT_TYPE_LATEST, Counter, Gauge, Histogram, generate_latest

from schemas.changelog import Outcome

STALL_S = 300.0
"""Without a turn of its loop for this long a worker is not well: Kafka gives its partitions away then, too."""
CLIENT_TIMEOUT_S = 5.0

_SECONDS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
_COUNTS = (1, 3, 10, 30, 100, 300, 1000)
_TENTHS = tuple(n / 10 for n in range(11))

LAG = Gauge("factstream_lag_records", "Not done yet, by partition owned.", ["worker", "topic", "partition"])
BATCH_RECORDS = Histogram("factstream_batch_records", "Of a batch.", ["worker"], buckets=_COUNTS)
BATCH_SECONDS = Histogram("factstream_batch_seconds", "Of a batch, committed.", ["worker"], buckets=_SECONDS)
RETRIES = Counter("factstream_retries", "Batches that failed and are taken again.", ["worker"])
DEAD_LETTERS = Counter("factstream_dead_letters", "Sent, by reason.", ["worker", "reason"])
MEMORIES = Gauge("factstream_memories", "Held: by a writer of its partitions, else of all.", ["worker"])
ENCODED = Counter("factstream_encoded_facts", "Facts measured by the encoder.")
DECISIONS = Counter("factstream_decisions", "Of the writer, durable, by outcome.", ["outcome"])
for _outcome in get_args(Outcome):  # there from the start: what never was cannot be found to have stopped
    DECISIONS.labels(_outcome)
DECISION_SECONDS = Histogram(
    "factstream_decision_seconds",
    "From a fact's Kafka timestamp to its decision.",
    buckets=(*_SECONDS, 300, 1000, 3000),
)
LOSS_DELTA = Histogram(
    "factstream_loss_delta_nats", "Of decided facts.", buckets=(-1, 0, 0.35, 0.7, 1.4, 2.8, 5.6, 11.2)
)
ANSWERS = Counter("factstream_answers", "Of the generator, by how they ended.", ["finish_reason"])
for _reason in ("stop", "length", "error"):
    ANSWERS.labels(_reason)
TOKENS = Counter("factstream_tokens", "Read (prompt) and made (completion) by the generator.", ["kind"])
QUEUED_SECONDS = Histogram(
    "factstream_queued_seconds", "From a request's Kafka timestamp to its batch.", buckets=_SECONDS
)
GENERATE_SECONDS = Histogram("factstream_generate_seconds", "Of a request's batch.", buckets=_SECONDS)
GATE = Histogram("factstream_gate", "Of each memory that was retrieved; above 0 it spoke.", buckets=_TENTHS)


@dataclass
class State:
    """Of this process's worker, as its loop tells it."""

    turned_at: float | None = None
    """By the monotonic clock. None until the first turn: a model may take minutes to load."""
    ready: bool = False

    def stall_s(self) -> float:
        return 0.0 if self.turned_at is None else time.monotonic() - self.turned_at


STATE = State()


def turned(ready: bool) -> None:
    STATE.turned_at, STATE.ready = time.monotonic(), ready


def batch(worker: str, records: int, seconds: float) -> None:
    BATCH_RECORDS.labels(worker).observe(records)
    BATCH_SECONDS.labels(worker).observe(seconds)


def in_hand(worker: str, consumer: KafkaConsumer, prefix: str, batch: Mapping[Any, Sequence[Any]]) -> None:
    """Before a batch, which may take long: it is read, and not done. By what the last fetches saw."""
    for tp, records in batch.items():
        _lag(worker, consumer, prefix, tp, records[0].offset)


def lag(worker: str, consumer: KafkaConsumer, prefix: str) -> None:
    """Between batches, of all that the worker owns. By what the last fetches saw: it asks the cluster nothing."""
    LAG.clear()  # of partitions that are ours no more
    for tp in sorted(consumer.assignment()):
        with suppress(KafkaError):
            _lag(worker, consumer, prefix, tp, consumer.position(tp, timeout_ms=100))


def _lag(worker: str, consumer: KafkaConsumer, prefix: str, tp: Any, at: int | None) -> None:
    end = consumer.highwater(tp)
    if end is not None and at is not None:
        LAG.labels(worker, tp.topic.removeprefix(prefix), tp.partition).set(max(0, end - at))


def memories(worker: str, said: Mapping[str, str | int]) -> None:
    """Of what a worker says when it is ready: how many it holds."""
    count = said.get("memories", said.get("replica"))
    if isinstance(count, int):
        MEMORIES.labels(worker).set(count)


def decided(made: Sequence[Any]) -> None:
    """`made` are decisions that the history has (pipeline.memory.events.Decision)."""
    for decision in made:
        DECISIONS.labels(decision.outcome).inc()
        if decision.published_at is not None:
            waited = (decision.decided_at - decision.published_at).total_seconds()
            DECISION_SECONDS.observe(max(0.0, waited))
        if decision.loss_delta is not None:
            LOSS_DELTA.observe(decision.loss_delta)


def answered(generation: Any, queued_ms: float, generate_ms: float) -> None:
    """`generation` is an answer (pipeline.memory_lm.Generation)."""
    ANSWERS.labels("stop" if generation.finish_reason == "stop" else "length").inc()
    TOKENS.labels("prompt").inc(generation.prompt_tokens)
    TOKENS.labels("completion").inc(generation.completion_tokens)
    QUEUED_SECONDS.observe(max(0.0, queued_ms) / 1000)
    GENERATE_SECONDS.observe(generate_ms / 1000)
    for memory in generation.memories:
        GATE.observe(memory.gate)


# --- the port ---


class _Pages(BaseHTTPRequestHandler):
    timeout = CLIENT_TIMEOUT_S

    def do_GET(self) -> None:
        stall = STATE.stall_s()
        if self.path == "/metrics":
            self._answer(200, generate_latest(), CONTENT_TYPE_LATEST)
        elif self.path == "/healthz":
            well = stall < STALL_S
            self._answer(200 if well else 503, b"ok\n" if well else f"no turn for {stall:.0f} s\n".encode())
        elif self.path == "/readyz":
            well = STATE.ready and stall < STALL_S
            self._answer(200 if well else 503, b"ready\n" if well else b"not ready\n")
        else:
            self._answer(404, b"/metrics, /healthz or /readyz\n")

    do_HEAD = do_GET

    def _answer(self, code: int, body: bytes, kind: str = "text/plain; charset=utf-8") -> None:
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """A scrape every few seconds is no event."""


def address(text: str, more: int = 0) -> tuple[str, int]:
    """PORT (of 127.0.0.1) or HOST:PORT, `more` ports further on. Raises ValueError."""
    host, _, port = text.rpartition(":")
    if not port.isdecimal() or not 0 < int(port) + more < 65536:
        raise ValueError(f"--metrics-port is PORT or HOST:PORT, not {text[:80]!r}")
    return host or "127.0.0.1", int(port) + more


def serve(where: str) -> HTTPServer:
    """Opens the port and answers on a thread, one client at a time, until the process ends. Raises ValueError."""
    host, port = address(where)
    try:
        server = HTTPServer((host, port), _Pages)
    except OSError as error:
        raise ValueError(f"--metrics-port {host}:{port}: {error.strerror or error}") from None
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
    return server
