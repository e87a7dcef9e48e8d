"""The shapes of OpenAI's responses: log-probabilities, usage, embeddings and errors.

Beside OpenAI's own fields a response has `factstream`: the namespace, and the memories that spoke, with their gates.
"""

import base64
import math
import struct
from collections.abc import Sequence
from typing import Any

from starlette.responses import JSONResponse, Response

from schemas.response import GenerationResponse, Token, Usage
from workers.http.errors import ApiError
from workers.http.openai.bodies import MODEL

OWNER = "factstream"
_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


def error_of(error: ApiError) -> dict[str, Any]:
    kind = _TYPES.get(error.status, "server_error" if error.status >= 500 else "invalid_request_error")
    return {"error": {"message": error.message, "type": kind, "param": error.param, "code": error.code}}


def problem(error: ApiError) -> Response:
    """An error as OpenAI's clients expect it."""
    return JSONResponse(error_of(error), error.status, dict(error.headers))


def model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": OWNER}


def usage(counted: Usage | None) -> dict[str, int]:
    counted = counted or Usage(prompt_tokens=0, completion_tokens=0)
    both = counted.prompt_tokens + counted.completion_tokens
    return {
        "prompt_tokens": counted.prompt_tokens, "completion_tokens": counted.completion_tokens, "total_tokens": both
    }  # fmt: skip


def extra(answer: GenerationResponse, namespace: str, more: dict[str, Any]) -> dict[str, Any]:
    """The field `factstream`."""
    memories = [
        memory.model_dump(mode="json", exclude_none=True) for memory in answer.memories if memory.gate > 0
    ]
    return {"namespace": namespace, "memories": memories} | more


def chat_logprobs(tokens: Sequence[Token] | None) -> dict[str, Any] | None:
    if tokens is None:
        return None
    content = [
        _token(token.text, token.logprob)
        | {"top_logprobs": [_token(other.text, other.logprob) for other in token.likeliest or ()]}
        for token in tokens
    ]
    return {"content": content, "refusal": None}


def completion_logprobs(tokens: Sequence[Token] | None, at: int = 0) -> dict[str, Any] | None:
    """Logprobs of tokens whose text begins after `at` characters of the answer."""
    if tokens is None:
        return None
    offsets = []
    for token in tokens:
        offsets.append(at)
        at += len(token.text)
    return {
        "tokens": [token.text for token in tokens],
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": [{other.text: other.logprob for other in token.likeliest or ()} for token in tokens],
        "text_offset": offsets,
    }


def _token(text: str, logprob: float | None) -> dict[str, Any]:
    return {"token": text, "logprob": logprob or 0.0, "bytes": list(text.encode())}


def embedding(index: int, vector: Sequence[float], dimensions: int | None, packed: bool) -> dict[str, Any]:
    """One embedding; with fewer dimensions its leading ones, of unit length again. packed: as base64 of float32."""
    if dimensions is not None and dimensions < len(vector):
        length = math.sqrt(sum(x * x for x in vector[:dimensions])) or 1.0
        vector = [x / length for x in vector[:dimensions]]
    value: object = list(vector)
    if packed:
        value = base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
    return {"object": "embedding", "index": index, "embedding": value}


def embeddings(data: list[dict[str, Any]], tokens: int) -> dict[str, Any]:
    counted = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "data": data, "model": MODEL, "usage": counted}
