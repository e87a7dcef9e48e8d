"""Responses: the messages that answer a request, the hits of its memories, and its row in the history."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import orjson

from schemas import reply, topics
from schemas.common import Message, encode
from schemas.hits import Hit, MemoryHits
from schemas.reply import ReturnAddress
from schemas.request import GenerationRequest
from schemas.response import (
    GenerationResponse,
    ResponseDelta,
    ResponseError,
    Timings,
    Token,
    Usage,
    UsedMemory,
)
from workers.generate.inflight import Pending
from workers.kafka.partitioner import partition_for
from workers.kafka.producer import Producer
from workers.observe import metrics, tracing

if TYPE_CHECKING:
    from pipeline.fusion.row import Job  # imports a model's library
    from pipeline.memory_lm import Generation, Retrieved


class Responder:
    """Sends answers and errors. Nothing is durable before the producer is flushed."""

    def __init__(self, producer: Producer, changelog_partitions: int) -> None:
        self._producer, self._partitions = producer, changelog_partitions

    def delta(self, p: Pending, text: str, tokens: list[Token] | None = None) -> None:
        """Sends the next piece of an answer."""
        delta = ResponseDelta(request_id=p.request_id, index=p.deltas, delta=text, tokens=tokens)
        p.deltas += 1
        self._send(p.address, delta)

    def answer(self, p: Pending, generation: Generation) -> None:
        """Sends the response and the hits of a request that has ended."""
        now = datetime.now(UTC)
        timings, headers = self.respond(p, response(p.request_id, generation))
        for hits in memory_hits(p.request_id, generation, now):
            key, partition = hits.namespace, partition_for(hits.namespace, self._partitions)
            self._producer.send(topics.MEMORY_HITS, encode(hits), key.encode(), partition, headers)
        p.history_row = history_row(p, generation, timings, now)

    def respond(self, p: Pending, response: GenerationResponse) -> tuple[Timings, tracing.Headers]:
        """Sends the response of a request that has ended. Returns its times, and the headers of its trace."""
        generate_ms = (p.ended - p.started) * 1000
        timings = Timings(
            queued_ms=max(0.0, p.started_epoch_s * 1000 - p.record.timestamp), generate_ms=generate_ms
        )
        attributes = tracing.where(p.record) | {
            "factstream.request_id": p.request_id,
            "factstream.memories": sum(m.gate > 0 for m in response.memories),
            "factstream.completion_tokens": response.usage.completion_tokens if response.usage else 0,
        }
        since, task = tracing.now() - int(generate_ms * 1e6), p.request.task
        headers = tracing.header(tracing.done(task, tracing.of(p.record.headers), since, attributes))
        self._send(p.address, response.model_copy(update={"timings": timings}), headers)
        metrics.answered(response, timings, task)
        p.answered = True
        return timings, headers

    def fail(self, address: ReturnAddress, reason: str, message: str) -> None:
        """Sends an error as the response."""
        metrics.ANSWERS.labels("error").inc()
        error = ResponseError(reason=reason, message=message)
        failed = GenerationResponse(request_id=address.request_id, finish_reason="error", error=error)
        self._send(address, failed, [(reply.ERROR, reason.encode())])

    def _send(self, address: ReturnAddress, message: Message, headers: tracing.Headers | None = None) -> None:
        topic = address.topic or self._producer.settings.topic(topics.GENERATION_RESPONSES)
        key, headers = address.request_id.encode(), [*address.headers, *(headers or ())]
        self._producer.send_to(topic, encode(message), key, address.partition, headers)


def job(request: GenerationRequest) -> Job:
    """The request as the engine takes it."""
    from pipeline.fusion.row import Job

    messages = [{"role": m.role, "content": m.content} for m in request.messages or ()]
    return Job(
        request.prompt, messages or None, request.namespaces, request.use_memory, request.max_new_tokens,
        request.temperature, request.top_p, request.seed, request.stop, request.tokens, request.logprobs,
        request.stop_at_answer,
    )  # fmt: skip


def used_memories(retrieved: Sequence[Retrieved]) -> list[UsedMemory]:
    """The memories as a response has them."""
    return [
        UsedMemory(
            memory_id=m.memory_id, namespace=m.namespace, text=m.text, category=m.category, score=m.score, gate=m.gate,
            doubted_by=m.doubted_by, metadata=None if m.metadata is None else orjson.loads(m.metadata),
        )
        for m in retrieved
    ]  # fmt: skip


def response(request_id: str, generation: Generation) -> GenerationResponse:
    usage = Usage(prompt_tokens=generation.prompt_tokens, completion_tokens=generation.completion_tokens)
    return GenerationResponse(
        request_id=request_id, text=generation.text, memories=used_memories(generation.memories),
        finish_reason="stop" if generation.finish_reason == "stop" else "length",
        usage=usage, tokens=generation.tokens,
    )  # fmt: skip


def memory_hits(request_id: str, generation: Generation, now: datetime) -> list[MemoryHits]:
    """One message for each namespace with a memory whose gate was above 0."""
    used = [m for m in generation.memories if m.gate > 0]
    return [
        MemoryHits(
            namespace=namespace, request_id=request_id, answered_at=now,
            hits=[Hit(memory_id=m.memory_id, gate=m.gate) for m in used if m.namespace == namespace],
        )
        for namespace in dict.fromkeys(m.namespace for m in used)
    ]  # fmt: skip


def history_row(pending: Pending, generation: Generation, timings: Timings, now: datetime) -> dict[str, Any]:
    """The row of an answer, with the columns of schemas.history.GENERATIONS."""
    request, record = pending.request, pending.record
    return {
        "request_id": pending.request_id, "namespaces": request.namespaces, "prompt": request.query,
        "text": generation.text, "use_memory": request.use_memory,
        "memory_ids": [m.memory_id for m in generation.memories], "gates": [m.gate for m in generation.memories],
        "finish_reason": generation.finish_reason, "error": None, "prompt_tokens": generation.prompt_tokens,
        "completion_tokens": generation.completion_tokens, "queued_ms": timings.queued_ms,
        "generate_ms": timings.generate_ms, "answered_at": now, "partition": record.partition, "offset": record.offset,
    }  # fmt: skip
