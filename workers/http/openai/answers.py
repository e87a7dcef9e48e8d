"""Answers of OpenAI's two kinds, a chat and a completion: the whole one, and streamed chunks."""

import time
import uuid
from dataclasses import dataclass, field
from typing import Any

from schemas.response import GenerationResponse, ResponseDelta
from workers.http.openai import shapes


@dataclass
class Chat:
    """A chat's answer."""

    model: str
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, answer: GenerationResponse) -> dict[str, Any]:
        message = {"role": "assistant", "content": answer.text, "refusal": None}
        choice = self._choice(answer) | {"message": message}
        return self._head("chat.completion") | {"choices": [choice], "usage": shapes.usage(answer.usage)}

    def first(self) -> list[dict[str, Any]]:
        """The chunk before any text."""
        return [self._chunk({"delta": {"role": "assistant", "content": ""}})]

    def piece(self, piece: ResponseDelta, at: int) -> dict[str, Any]:
        """The chunk of a piece of the text, which begins after `at` characters."""
        return self._chunk(
            {"delta": {"content": piece.delta}, "logprobs": shapes.chat_logprobs(piece.tokens)}
        )

    def last(self, answer: GenerationResponse, sent: int) -> dict[str, Any]:
        """The chunk after all text; with the log-probabilities of the tokens after the `sent` first ones."""
        rest = answer.tokens and answer.tokens[sent:]
        return self._chunk(
            {"delta": {}} | self._choice(answer) | {"logprobs": shapes.chat_logprobs(rest or None)}
        )

    def counted(self, answer: GenerationResponse) -> dict[str, Any]:
        """The chunk of the usage."""
        return self._head("chat.completion.chunk") | {"choices": [], "usage": shapes.usage(answer.usage)}

    def _choice(self, answer: GenerationResponse) -> dict[str, Any]:
        return {
            "index": 0, "logprobs": shapes.chat_logprobs(answer.tokens), "finish_reason": answer.finish_reason
        }  # fmt: skip

    def _chunk(self, choice: dict[str, Any]) -> dict[str, Any]:
        choice = {"index": 0, "logprobs": None, "finish_reason": None} | choice
        return self._head("chat.completion.chunk") | {"choices": [choice]}

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}


@dataclass
class Completion:
    """A completion."""

    model: str
    id: str = field(default_factory=lambda: f"cmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, answer: GenerationResponse) -> dict[str, Any]:
        return self._of(self._choice(answer) | {"text": answer.text}) | {"usage": shapes.usage(answer.usage)}

    def first(self) -> list[dict[str, Any]]:
        return []

    def piece(self, piece: ResponseDelta, at: int) -> dict[str, Any]:
        logprobs = shapes.completion_logprobs(piece.tokens, at)
        return self._of({"index": 0, "text": piece.delta, "logprobs": logprobs, "finish_reason": None})

    def last(self, answer: GenerationResponse, sent: int) -> dict[str, Any]:
        rest, at = (
            answer.tokens and answer.tokens[sent:],
            sum(len(one.text) for one in (answer.tokens or [])[:sent]),
        )
        logprobs = shapes.completion_logprobs(rest or None, at)
        return self._of(self._choice(answer) | {"text": "", "logprobs": logprobs})

    def counted(self, answer: GenerationResponse) -> dict[str, Any]:
        return self._of() | {"usage": shapes.usage(answer.usage)}

    def _choice(self, answer: GenerationResponse) -> dict[str, Any]:
        return {
            "index": 0, "logprobs": shapes.completion_logprobs(answer.tokens), "finish_reason": answer.finish_reason
        }  # fmt: skip

    def _of(self, *choices: dict[str, Any]) -> dict[str, Any]:
        head = {"id": self.id, "object": "text_completion", "created": self.created, "model": self.model}
        return head | {"choices": list(choices)}
