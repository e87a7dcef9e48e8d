"""How a chat asks: the request for what a user says, and where the answer to it ends on the screen."""

import re
from collections.abc import Callable, Iterator

from pipeline.conversation.facts import USER
from pipeline.conversation.sentences import sentences
from pipeline.conversation.speaker import asked_of
from pipeline.conversation.statements import is_question, is_statement, without_lead
from schemas.common import validate
from schemas.request import GenerationRequest
from schemas.response import GenerationResponse, ResponseDelta
from workers.client import Client
from workers.client.positions import Positions

MAX_TOKENS = 96
ENOUGH_CHARS = 240
"""Where no memory speaks the answer ends with the first sentence that reaches so far: a small model goes on and on."""
_SENTENCE_END = re.compile(r"[.!?…][\"'”’)\]]*(?=\s)|[。！？]")
TIMEOUT_S = 120.0


def request(text: str, namespace: str, speaker: str | None) -> GenerationRequest:
    """The request for an answer. A question about the speaker is asked by name, as the facts have it.

    What the message states comes before what it asks, in a message of its own: the last message finds the memories, and what was
    just said would find itself. Where it only states something the model answers by itself, for the same reason.
    Raises BadMessage.
    """
    every = sentences(text)
    stated = [sentence for sentence in every if is_statement(without_lead(sentence))]
    others = [sentence for sentence in every if sentence not in stated]
    named = [by_name(sentence, speaker) for sentence in others]
    if stated:
        contents = [" ".join(part) for part in (stated, named) if part]
    else:  # as it is, with its lines and its code, where it is not about the speaker
        contents = [text if named == others else " ".join(named)]
    body = {
        "messages": [{"role": "user", "content": content} for content in contents], "namespace": namespace,
        "max_new_tokens": MAX_TOKENS, "use_memory": bool(others) or not stated, "stream": True,
    }  # fmt: skip
    return validate(GenerationRequest, body)


def by_name(sentence: str, speaker: str | None) -> str:
    """The sentence, by the speaker's name if it asks about them."""
    return asked_of(sentence, speaker or USER) if is_question(without_lead(sentence)) else sentence


def answer(
    client: Client, asking: GenerationRequest, recent: Positions, wanted: Callable[[], bool] = lambda: True
) -> Iterator[str | GenerationResponse]:
    """The pieces of the answer as they come, up to where it ends, and last the response with exactly that text.

    Nothing more once `wanted()` is false. Raises ClientError, KafkaError.
    """
    text, shown = "", ""
    for piece in client.ask(asking, recent, TIMEOUT_S, wanted):
        if isinstance(piece, ResponseDelta):
            text += piece.delta
            until = ended(text)
            if new := until[len(shown) :]:
                shown = until
                yield new
        elif piece.error:
            yield piece
        else:
            whole = ended(piece.text)
            if whole.startswith(shown) and (new := whole[len(shown) :]):
                yield new
            yield piece.model_copy(update={"text": whole})


def ended(text: str) -> str:
    """The text up to where a chat's answer ends; all of it until then."""
    text = text.lstrip()
    end = _SENTENCE_END.search(text, ENOUGH_CHARS)
    return text[: end.end()] if end else text
