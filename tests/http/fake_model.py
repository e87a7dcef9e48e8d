"""A model that repeats what it is asked, word by word, with one memory of the namespace."""

from pipeline.memory.bank import memory_id
from pipeline.memory_lm import Generation, Retrieved
from schemas.response import GenerationResponse, LikelyToken, Token, Usage
from workers.generate.inflight import Pending
from workers.generate.responses import Responder

DIMENSIONS = 4


def memory_of(namespace: str) -> Retrieved:
    text = f"a memory of {namespace}"
    return Retrieved(memory_id(namespace, text), namespace, text, "c", 1.0, 0.9, metadata='{"page":3}')


def embedded(text: str) -> list[float]:
    """A unit vector that tells the texts apart."""
    vector = [0.0] * DIMENSIONS
    vector[len(text) % DIMENSIONS] = 1.0
    return vector


def repeat(responder: Responder, p: Pending) -> None:
    """Answers with the prompt, until a word of `stop` or max_new_tokens.

    "silence" is not answered, "fail" fails, "pause" begins and does not end, and "behind" fails where it should wait for a fact.
    """
    request, text = p.request, p.request.query
    if text == "silence":
        return
    if text == "fail":
        responder.fail(p.address, "failed", "no such thing")
        return
    if text == "behind" and request.after:
        responder.fail(p.address, "behind", "the memory is late")
        return
    if request.task == "embed":
        texts = request.prompts or [text]
        used = Usage(prompt_tokens=sum(len(one.split()) for one in texts), completion_tokens=0)
        vectors = [embedded(one) for one in texts]
        found = GenerationResponse(
            request_id=p.request_id, finish_reason="stop", usage=used, embeddings=vectors
        )
        responder.respond(p, found)
        return
    words, finish = text.split(), "stop"
    for n, word in enumerate(words):
        if word in request.stop:
            words = words[:n]
            break
    if len(words) > request.max_new_tokens:
        words, finish = words[: request.max_new_tokens], "length"
    pieces = [word if n == 0 else f" {word}" for n, word in enumerate(words)]
    tokens = None
    if request.logprobs is not None:
        likely = [LikelyToken(text=f"w{n}", logprob=-1.0 - n) for n in range(request.logprobs)]
        tokens = [Token(text=piece, moved=0.0, logprob=-0.5, likeliest=likely) for piece in pieces]
    if request.stream:
        for n, piece in enumerate(pieces):
            responder.delta(p, piece, tokens and tokens[n : n + 1])
            if piece == " break":
                responder.fail(p.address, "failed", "broken off")
            if piece in (" break", " pause"):
                return
    memories = [memory_of(name) for name in request.namespaces] if request.use_memory else []
    used_up = len(text.split())
    responder.answer(p, Generation("".join(pieces), finish, memories, used_up, len(pieces), tokens))
