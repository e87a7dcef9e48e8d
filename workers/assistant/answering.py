"""How a chat asks: the request for what a user says, and where the answer to it ends on the screen."""

import re
from collections.abc import Callable, Iterator

from pipeline.conversation.facts import USER
from pipeline.conversation.sentences import sentences
from pipeline.conversation.speaker import asked_of
from pipeline.conversation.statements import is_question, is_statement, without_lead
from schemas.request import ChatMessage, GenerationRequest
from schemas.response import GenerationResponse, ResponseDelta
from workers.client import Client
from workers.client.positions import Positions

MAX_TOKENS = 96
ENOUGH_CHARS = 240
"""Where no memory speaks the answer ends with the first sentence that reaches so far: a small model goes on and on."""
_SENTENCE_END = re.compile(r"[.!?…][\"'”’)\]]*(?=\s)|[。！？]")
TIMEOUT_S = 120.0


def request(said: str, namespace: str, speaker: str | None) -> GenerationRequest:
    """The request for an answer. A question about the speaker is asked by name, as the facts have it.

    Where the message only states something the model answers by itself: the memory would repeat what was just said.
    """
    stated = [is_statement(without_lead(sentence)) for sentence in sentences(said)]
    return GenerationRequest(
        messages=[ChatMessage(role="user", content=asked(said, speaker))],
        namespace=namespace,
        max_new_tokens=MAX_TOKENS,
        use_memory=not stated or not all(stated),
        stream=True,
    )


def asked(said: str, speaker: str | None) -> str:
    """The message with its questions about the speaker by name."""
    if not any(is_question(without_lead(sentence)) for sentence in sentences(said)):
        return said
    return " ".join(
        asked_of(sentence, speaker or USER) if is_question(without_lead(sentence)) else sentence
        for sentence in sentences(said)
    )


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
