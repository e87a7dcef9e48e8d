"""The addresses of OpenAI's API: each reads its body, asks, and answers in OpenAI's shape."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute

from schemas.common import DEFAULT_NAMESPACE, parse_json, validate
from schemas.fact import Conversation
from schemas.request import MAX_PROMPT_CHARS, MAX_PROMPTS, GenerationRequest
from schemas.response import GenerationResponse
from workers.http.endpoint import MAX_BODY_BYTES, Handler, route
from workers.http.errors import ApiError
from workers.http.openai import shapes
from workers.http.openai.answers import Chat, Completion
from workers.http.openai.bodies import BARE, MODEL, Body, ChatBody, CompletionBody, EmbeddingBody, Sampled
from workers.http.openai.streaming import streamed
from workers.http.shared import Shared, checked
from workers.memories.headers import NAMESPACE, namespace_in, valid_namespace

LEARN = "x-factstream-learn"
"""The header that says what a client cannot put into the body."""

SOURCE = "chat"
"""Source of what is learned from a chat."""

B = TypeVar("B", bound=Body)


def routes(shared: Shared) -> list[BaseRoute]:
    addresses: list[tuple[str, str, Handler]] = [
        ("POST", "/v1/chat/completions", partial(_chat, shared)),
        ("POST", "/v1/completions", partial(_completion, shared)),
        ("POST", "/v1/embeddings", partial(_embeddings, shared)),
        ("GET", "/v1/models", _models),
        ("GET", "/v1/models/{model:path}", _model),
    ]
    return [route(method, path, handler, shapes.problem) for method, path, handler in addresses]


async def _models(_: Request) -> Response:
    return JSONResponse({"object": "list", "data": [shapes.model(name) for name in (MODEL, BARE)]})


async def _model(request: Request) -> Response:
    return JSONResponse(shapes.model(_known(request.path_params["model"])))


async def _chat(shared: Shared, request: Request) -> Response:
    body = await _read(ChatBody, request)
    return await _answer(shared, request, body, Chat(body.model))


async def _completion(shared: Shared, request: Request) -> Response:
    body = await _read(CompletionBody, request)
    return await _answer(shared, request, body, Completion(body.model))


async def _answer(shared: Shared, request: Request, body: Sampled, kind: Chat | Completion) -> Response:
    namespace = namespace_of(request, body)
    wanted = body.request(namespace)
    recent = await shared.recent(wanted)  # before it learns: an answer does not wait for its own question
    more = {"learned": await _learn(shared, namespace, body.user_text())} if _learns(request, body) else {}

    def extra(answer: GenerationResponse) -> dict[str, Any]:
        return shapes.extra(answer, namespace, more)

    if body.streams:
        usage = body.stream_options is not None and body.stream_options.include_usage
        return await streamed(kind, shared.client.stream(wanted, recent), usage, extra)
    answer = checked(await shared.client.ask(wanted, recent))
    return JSONResponse(kind.whole(answer) | {"factstream": extra(answer)})


async def _embeddings(shared: Shared, request: Request) -> Response:
    body = await _read(EmbeddingBody, request)
    requests = [GenerationRequest(task="embed", prompts=texts) for texts in _groups(body.input)]
    answers = [checked(await shared.client.ask(one)) for one in requests]
    vectors = [vector for answer in answers for vector in answer.embeddings or ()]
    if body.dimensions and body.dimensions > len(vectors[0]):
        raise ApiError(400, "invalid-field", f"an embedding has {len(vectors[0])} dimensions", "dimensions")
    packed = body.encoding_format == "base64"
    data = [shapes.embedding(n, vector, body.dimensions, packed) for n, vector in enumerate(vectors)]
    tokens = sum(answer.usage.prompt_tokens for answer in answers if answer.usage)
    return JSONResponse(shapes.embeddings(data, tokens))


def _groups(texts: Sequence[str]) -> Iterator[list[str]]:
    """The texts in groups that fit into one request each."""
    group, size = list[str](), 0
    for text in texts:
        if group and (len(group) >= MAX_PROMPTS or size + len(text) > MAX_PROMPT_CHARS):
            yield group
            group, size = [], 0
        group.append(text)
        size += len(text)
    yield group


async def _read(model: type[B], request: Request) -> B:
    """The body. Raises BadMessage, and ApiError for a model that is not there."""
    body = validate(model, parse_json(await request.body(), MAX_BODY_BYTES))
    _known(getattr(body, "model", MODEL))
    return body


def _known(name: str) -> str:
    if name not in (MODEL, BARE):
        message = f"the model {name[:100]!r} is not here; there are {MODEL} and {BARE}"
        raise ApiError(404, "model_not_found", message, "model")
    return name


def namespace_of(request: Request, body: Sampled) -> str:
    """The first of metadata.namespace, the header and `user` that is given; none of them: `default`.

    A value that is not a valid namespace is refused, and not replaced by another one. Raises BadMessage.
    """
    given = [
        ("metadata.namespace", body.metadata.namespace if body.metadata else None),
        (NAMESPACE, namespace_in(request.headers)),
        ("user", body.user),
    ]
    for name, value in given:
        if value is not None:
            return valid_namespace(value, name)
    return DEFAULT_NAMESPACE


def _learns(request: Request, body: Sampled) -> bool:
    if body.learn is not None:
        return body.learn
    return request.headers.get(LEARN, "").strip().lower() in ("1", "true", "yes")


async def _learn(shared: Shared, namespace: str, text: str) -> bool:
    """Publishes what the user said; False if it was nothing. Raises BadMessage, and as `client.publish` does."""
    if not text.strip():
        return False
    message = {"role": "user", "content": text}
    await shared.publish([(namespace, validate(Conversation, {"messages": [message], "source": SOURCE}))])
    return True
