"""What a chat asks for a message, and where the answer ends."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from schemas.request import GenerationRequest
from schemas.response import GenerationResponse, ResponseDelta, ResponseError
from workers.assistant.answering import ENOUGH_CHARS, answer, by_name, ended, request
from workers.client import Client


@pytest.mark.parametrize(
    "said, question",
    [
        ("Where do I live?", "Where does Ana live?"),
        ("What is my dog called?", "What is Ana's dog called?"),
        ("am i allergic to nuts", "Is Ana allergic to nuts"),
        ("What do you know about me?", "What do you know about Ana?"),
        ("What is the capital of France?", "What is the capital of France?"),
        ("Tell me a joke.", "Tell me a joke."),
        ("Where did we go?", "Where did we go?"),
    ],
)
def test_a_question_about_the_speaker_is_asked_by_name(said: str, question: str) -> None:
    assert by_name(said, "Ana") == question


def test_a_speaker_without_a_name_is_asked_about_as_the_facts_say() -> None:
    assert by_name("Where do I live?", None) == "Where does the user live?"


def test_the_memory_speaks_unless_the_message_only_states_something() -> None:
    assert not request("I live in Porto. I like tea.", "me", None).use_memory
    for said in ("Where do I live?", "I live in Porto. Do you?", "Tell me a joke.", "🎉"):
        assert request(said, "me", None).use_memory
    asking = request("Where do I live?", "me", "Ana")
    assert asking.namespace == "me" and asking.stream and asking.messages is not None
    assert [message.content for message in asking.messages] == ["Where does Ana live?"]


def test_what_is_stated_comes_before_what_is_asked() -> None:
    """The last message finds the memories: they would find what was just said."""
    said = "I live in Porto. How are you? My dog is called Rex. Where do I live?"
    asking = request(said, "me", "Ana")
    assert asking.messages is not None and [message.content for message in asking.messages] == [
        "I live in Porto. My dog is called Rex.", "How are you? Where does Ana live?",
    ]  # fmt: skip
    code = "Explain this:\n```\nx = 1\n```"
    asking = request(code, "me", None)
    assert asking.messages is not None and asking.messages[0].content == code


def test_a_long_answer_ends_with_a_sentence() -> None:
    sentence = "This is a sentence that goes on for a while. "
    assert ended(sentence) == sentence
    cut = ended("\n" + sentence * 20)
    assert ENOUGH_CHARS < len(cut) <= ENOUGH_CHARS + len(sentence) and cut.endswith("while.")
    assert ended("x" * 1000) == "x" * 1000


class Answering:
    """A client that answers with these pieces."""

    def __init__(self, *deltas: str, error: ResponseError | None = None) -> None:
        self._deltas, self._error = deltas, error

    def ask(
        self, request: GenerationRequest, recent: Any, timeout_s: float, wanted: Callable[[], bool]
    ) -> Iterator[ResponseDelta | GenerationResponse]:
        for index, delta in enumerate(self._deltas):
            yield ResponseDelta(request_id="r", index=index, delta=delta)
        text = "".join(self._deltas)
        yield GenerationResponse(
            request_id="r", text=text, finish_reason="error" if self._error else "stop", error=self._error
        )


def pieces(client: Any) -> list[str | GenerationResponse]:
    made: Client = client
    return list(answer(made, request("Hello!", "me", None), {}))


def test_the_pieces_join_to_the_text_of_the_response() -> None:
    *some, last = pieces(Answering("\n", "Por", "to is", " nice."))
    assert some == ["Por", "to is", " nice."]
    assert isinstance(last, GenerationResponse) and last.text == "Porto is nice."
    long = [f"Sentence number {n} of many. " for n in range(40)]
    *some, last = pieces(Answering(*long))
    assert isinstance(last, GenerationResponse) and "".join(map(str, some)) == last.text
    assert last.text.endswith("many.") and len(last.text) < ENOUGH_CHARS + 40


def test_an_error_is_handed_on() -> None:
    error = ResponseError(reason="behind", message="too late")
    (last,) = (piece for piece in pieces(Answering(error=error)) if not isinstance(piece, str))
    assert last.error == error
