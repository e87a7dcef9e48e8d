"""Lookups: the tasks that generate nothing, memories found for a prompt and states of texts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from schemas.request import GenerationRequest
from schemas.response import GenerationResponse, Usage
from workers.generate.responses import used_memories

if TYPE_CHECKING:
    from pipeline.memory_lm import MemoryLM  # imports a model's library

DECIMALS = 6
"""Decimals of an embedding's coordinates: float32 has no more at a length of 1."""


def look_up(lm: MemoryLM, request: GenerationRequest, request_id: str) -> GenerationResponse:
    """The response to a request whose task is not `generate`."""
    texts = request.prompts or [request.query]
    response = GenerationResponse(
        request_id=request_id, finish_reason="stop",
        usage=Usage(prompt_tokens=lm.token_count(texts), completion_tokens=0),
    )  # fmt: skip
    if request.task == "embed":
        rounded = lm.embed(texts).astype(float).round(DECIMALS)
        return response.model_copy(update={"embeddings": rounded.tolist()})
    (found,) = lm.retrieve(texts, request.namespaces, request.limit)
    return response.model_copy(update={"memories": used_memories(found)})
