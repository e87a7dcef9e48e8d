"""Row of the engine's batch: one answer, with its job, its prompt, and the tokens and text so far."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from torch import Tensor

from pipeline.fusion.fusion import Fusion
from pipeline.fusion.sampling import Sampler
from pipeline.fusion.text_stream import TextStream
from pipeline.model import contexts
from pipeline.model.backbone import Backbone
from pipeline.retrieve.hit import Hit
from schemas.response import LikelyToken, Token


@dataclass(frozen=True, slots=True)
class Job:
    """A prompt, or a chat of {role, content} messages, and how to answer it."""

    prompt: str | None = None
    messages: Sequence[Mapping[str, str]] | None = None
    namespaces: Sequence[str] = ("default",)
    use_memory: bool = True
    max_new_tokens: int = 32
    temperature: float = 0.0  # 0: greedy
    top_p: float = 1.0
    seed: int = 0
    stop: Sequence[str] = field(default_factory=tuple)
    tokens: bool = False  # whether the answer also lists its tokens
    logprobs: int | None = (
        None  # how many of the likeliest tokens are listed with each of them; None: no log-probabilities
    )
    stop_at_answer: bool = True  # whether the text ends where the answer ends, with the memory speaking

    def query(self) -> str:
        """The text by which memories are retrieved: the prompt, or the chat's last message."""
        if self.messages is None:
            return self.prompt or ""
        return self.messages[-1]["content"] if self.messages else ""


class Prompt(NamedTuple):
    """A job, prepared for the engine."""

    ids: list[int]  # clipped, so that the answer fits into the context
    max_new_tokens: int
    hits: Sequence[Hit]  # the memories that were retrieved for it
    fusion: Fusion | None  # None: no gate is open, and the answer is the model's own
    reading: contexts.Prompt | None  # with fusion: the same prompt after its facts


class Row:
    """The state of one answer. `start` begins it, and `append` takes its tokens one by one."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.prompt = Prompt([], 0, (), None, None)
        self.tokens: list[int] = []
        self.text = ""
        self.finish_reason: Literal["", "stop", "length", "error"] = ""  # "": not finished
        self.error: Exception | None = None
        self.sampler: Sampler | None = None
        self._taken = 0  # characters that `take_text` has returned
        self._listed = 0  # tokens that `take_tokens` has returned
        self._held = max(map(len, job.stop), default=1) - 1
        self.answered = False  # whether the memories have given their answer
        self._raised: Tensor | None = None  # [V] how far they raise each token's probability
        self._moved: list[tuple[float, int]] = []  # of each token: rise of its probability, end of its text
        self._logprobs: list[tuple[float, list[LikelyToken]]] = []  # of each token, if the job wants them

    def start(self, prompt: Prompt, backbone: Backbone) -> None:
        """Begins the answer, for a retry again: the same seed draws the same tokens, and taken text stays taken."""
        self.prompt, self.tokens, self.text, self._moved, self._logprobs = prompt, [], "", [], []
        self.answered = False
        job = self.job
        self.sampler = Sampler(job.temperature, job.top_p, job.seed) if job.temperature > 0 else None
        self._stream = TextStream(backbone.tokenizer.backend_tokenizer)

    def fuse(self, bare: Tensor, memory: Tensor) -> Tensor:
        """[V] the scores of the next token, from both streams' logits [V]; the bare ones once the answer has been given."""
        fusion = self.prompt.fusion
        if fusion is None or self.answered:
            return bare
        own = bare.log_softmax(-1)
        scores = fusion.fuse(own, memory.log_softmax(-1))
        if self.job.tokens:
            self._raised = scores.softmax(-1) - own.exp()
        return scores

    def note(self, scores: Tensor, token: int, backbone: Backbone) -> None:
        """Keeps the log-probabilities of the next token, chosen from scores [V]."""
        if self.job.logprobs is None:
            return
        log_p = scores.float().log_softmax(-1)
        best, ids = log_p.topk(min(self.job.logprobs, len(log_p)))
        texts = [str(backbone.tokenizer.decode([i])) for i in ids.tolist()]
        likeliest = [LikelyToken(text=text, logprob=p) for text, p in zip(texts, best.tolist(), strict=True)]
        self._logprobs.append((float(log_p[token]), likeliest))

    def append(self, token: int) -> None:
        """Takes the next token, which may finish the answer."""
        fusion, moved = self.prompt.fusion, 0.0
        if fusion and not self.answered:
            moved = float(self._raised[token]) if self._raised is not None else 0.0
            fusion.advance(token)
        self.tokens.append(token)
        self.text = self._stream.append(token)
        ends = [at for stop in self.job.stop if (at := self.text.find(stop)) >= 0]
        if fusion and not self.answered and (end := self._line_end()) is not None:
            self.answered = True
            ends += [end] if self.job.stop_at_answer else []
        if ends:
            self.text, self.finish_reason = self.text[: min(ends)], "stop"
        elif len(self.tokens) >= self.prompt.max_new_tokens:
            self.finish_reason = "length"
        self._moved.append((moved, len(self.text)))

    def _line_end(self) -> int | None:
        """Characters: where the first line that is not blank ends; None while it goes on. There the answer ends."""
        begin = len(self.text) - len(self.text.lstrip())
        end = self.text.find("\n", begin)
        return end if end >= 0 else None

    def fail(self, error: Exception) -> None:
        """Finishes the row with an error."""
        self.error, self.finish_reason = error, "error"

    def take_text(self) -> str:
        """The text since the last call.

        Until the answer is finished, characters that may begin a stop string are held back, and so is an incomplete character.
        With log-probabilities the text ends where a token does.
        """
        end = len(self.text) - (0 if self.finish_reason else self._held)
        if self.job.logprobs is not None and not self.finish_reason:
            end = max((at for _, at in self._moved[self._listed :] if at <= end), default=0)
        end = max(self._taken, end)
        text = self.text[self._taken : end]
        if text.endswith("\ufffd") and not self.finish_reason:
            return ""
        self._taken = end
        return text

    def take_tokens(self) -> list[Token]:
        """The tokens of the text that `take_text` returned, since the last call; with the end of the answer all others."""
        ends = [end for _, end in self._moved[self._listed :]]
        count = len(ends) if self.finish_reason else sum(end <= self._taken for end in ends)
        found = self.pieces(self._listed, self._listed + count)
        self._listed += count
        return found

    def pieces(self, first: int = 0, last: int | None = None) -> list[Token]:
        """The text of each token, and how far the memories raised its probability; of those from `first` to before `last`.

        A character of several tokens belongs to the first one; text that a stop string cut off belongs to none.
        """
        found, count = list[Token](), len(self.tokens)
        begin = min(self._moved[first - 1][1], len(self.text)) if first else 0
        for n, (moved, end) in enumerate(self._moved[first:last], first + 1):
            end = len(self.text) if n == count else max(begin, min(end, len(self.text)))
            logprob, likeliest = self._logprobs[n - 1] if self._logprobs else (None, None)
            text = self.text[begin:end]
            found.append(Token(text=text, moved=moved, logprob=logprob, likeliest=likeliest))
            begin = end
        return found
