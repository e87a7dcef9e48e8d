"""Prometheus metrics of the workers: names, labels and buckets, and how each is recorded.

They are recorded whether or not a port serves them (`workers.observe.health`). They contain no text of a fact, a prompt
or an answer.
"""

from collections.abc import Mapping, Sequence
from typing import Any, get_args

from prometheus_client import Counter, Gauge, Histogram

from schemas.changelog import Outcome
from schemas.response import GenerationResponse, Timings

_SECONDS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
_COUNTS = (1, 3, 10, 30, 100, 300, 1000)
_TENTHS = tuple(n / 10 for n in range(11))

LAG = Gauge(
    "factstream_lag_records",
    "Records that the worker has not committed, per topic and partition that it owns.",
    ["worker", "topic", "partition"],
)
BATCH_RECORDS = Histogram(
    "factstream_batch_records", "Records per committed batch.", ["worker"], buckets=_COUNTS
)
BATCH_SECONDS = Histogram(
    "factstream_batch_seconds",
    "Seconds from receiving a batch to committing its offsets.",
    ["worker"],
    buckets=_SECONDS,
)
RETRIES = Counter("factstream_retries", "Failed batches or polls that were retried.", ["worker"])
DEAD_LETTERS = Counter(
    "factstream_dead_letters", "Records sent to the dead letters, by reason.", ["worker", "reason"]
)
REFUSED = Counter(
    "factstream_replica_refused",
    "Changelog records that the generator could not load, by reason.",
    ["reason"],
)
MEMORIES = Gauge(
    "factstream_memories",
    "Memories held: of its own partitions by a writer, of all or of its own by a generator.",
    ["worker"],
)
UNKNOWN_FIELDS = Counter(
    "factstream_unknown_fields", "Fields of facts and requests that were left out: no message has them."
)
ENCODED = Counter("factstream_encoded_facts", "Facts encoded.")
MAPPED = Counter(
    "factstream_mapped_statements",
    "Statements of the source worker's records, by topic and verdict.",
    ["topic", "verdict"],
)
DECISIONS = Counter("factstream_decisions", "Durable decisions of the writer, by outcome.", ["outcome"])
for _outcome in get_args(Outcome):  # all series exist from the start, so that a rate of zero is visible
    DECISIONS.labels(_outcome)
DECISION_SECONDS = Histogram(
    "factstream_decision_seconds",
    "Seconds from a fact's Kafka timestamp to its decision.",
    buckets=(*_SECONDS, 300, 1000, 3000),
)
LOSS_DELTA = Histogram(
    "factstream_loss_delta_nats",
    "Loss delta of decided facts, in nats.",
    buckets=(-1, 0, 0.35, 0.7, 1.4, 2.8, 5.6, 11.2),
)
ANSWERS = Counter("factstream_answers", "Answers of the generator, by finish reason.", ["finish_reason"])
for _reason in ("stop", "length", "error"):
    ANSWERS.labels(_reason)
FORWARDED = Counter(
    "factstream_forwarded_requests",
    "Requests sent on to the partition of their namespace (partitioned replicas).",
)
TOKENS = Counter(
    "factstream_tokens", "Tokens read (prompt) and generated (completion) by the generator.", ["kind"]
)
QUEUED_SECONDS = Histogram(
    "factstream_queued_seconds",
    "Seconds from a request's Kafka timestamp to the start of its generation.",
    buckets=_SECONDS,
)
GENERATE_SECONDS = Histogram(
    "factstream_generate_seconds", "Seconds that the generation of an answer took.", buckets=_SECONDS
)
LOOKUP_SECONDS = Histogram(
    "factstream_lookup_seconds",
    "Seconds that a request took which generates nothing, by task.",
    ["task"],
    buckets=_SECONDS,
)
HTTP_RUNNING = Gauge("factstream_http_running", "Requests of the APIs that are being answered.")
HTTP_REQUESTS = Counter(
    "factstream_http_requests",
    "Requests of the APIs, by route and status; 499 is a client that left.",
    ["route", "status"],
)
HTTP_SECONDS = Histogram(
    "factstream_http_seconds",
    "Seconds until a request's whole response was sent.",
    ["route"],
    buckets=_SECONDS,
)
GATE = Histogram(
    "factstream_gate",
    "Gate of each retrieved memory; above 0 the memory took part in the answer.",
    buckets=_TENTHS,
)


def batch(worker: str, records: int, seconds: float) -> None:
    """Record a committed batch."""
    BATCH_RECORDS.labels(worker).observe(records)
    BATCH_SECONDS.labels(worker).observe(seconds)


def lag(worker: str, counts: Mapping[tuple[str, int], int], complete: bool = True) -> None:
    """Set the uncommitted records by (topic, partition). With `complete`, all other partitions are no longer owned."""
    if complete:
        LAG.clear()
    for (topic, partition), count in counts.items():
        LAG.labels(worker, topic, partition).set(count)


def memories(worker: str, state: Mapping[str, str | int]) -> None:
    """Set the number of memories from what `Worker.ready` returned, if it has one."""
    count = state.get("memories", state.get("replica"))
    if isinstance(count, int):
        MEMORIES.labels(worker).set(count)


def decided(decisions: Sequence[Any]) -> None:
    """Record decisions (pipeline.memory.events.Decision) that are in the history."""
    for decision in decisions:
        DECISIONS.labels(decision.outcome).inc()
        if decision.published_at is not None:
            seconds = (decision.decided_at - decision.published_at).total_seconds()
            DECISION_SECONDS.observe(max(0.0, seconds))
        if decision.loss_delta is not None:
            LOSS_DELTA.observe(decision.loss_delta)


def served(route: str, status: int, seconds: float) -> None:
    """Record a request of an API; `route` is its path as it is declared, with no id in it."""
    HTTP_REQUESTS.labels(route, status).inc()
    HTTP_SECONDS.labels(route).observe(seconds)


def answered(response: GenerationResponse, timings: Timings, task: str) -> None:
    """Record an answer, or what another task found."""
    if response.usage:
        TOKENS.labels("prompt").inc(response.usage.prompt_tokens)
        TOKENS.labels("completion").inc(response.usage.completion_tokens)
    QUEUED_SECONDS.observe(timings.queued_ms / 1000)
    if task != "generate":
        LOOKUP_SECONDS.labels(task).observe(timings.generate_ms / 1000)
        return
    ANSWERS.labels(response.finish_reason).inc()
    GENERATE_SECONDS.observe(timings.generate_ms / 1000)
    for memory in response.memories:
        GATE.observe(memory.gate)
