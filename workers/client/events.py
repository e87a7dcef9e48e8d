"""Counts and descriptions of the facts, decisions, answers and dead letters between two ticks.

Records are decoded as the workers decode them; those that cannot be decoded are ignored. Memory use is
bounded.
"""

from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from schemas import topics
from schemas.changelog import Decided, MemoryRecord, PositionRecord, decode_changelog
from schemas.common import BadMessage, parse_json, validate
from schemas.dead_letter import decode_headers
from schemas.fact import Fact, decode_fact
from schemas.reply import return_address
from schemas.request import decode_request
from schemas.response import GenerationResponse

TOPICS = (
    topics.FACTS, topics.GENERATION_REQUESTS, topics.MEMORY_CHANGELOG, topics.DEAD_LETTERS, topics.GENERATION_RESPONSES
)  # fmt: skip
MAX_TEXTS = 5000
"""Texts that wait for their fact's decision, and prompts that wait for their answer."""
MAX_EVENTS = 1000
"""Decisions and answers listed in one tick."""
MAX_CHARS = 400
"""Characters kept of a text or prompt."""


@dataclass
class Events:
    """The events since the last tick, and the texts and prompts to describe later ones."""

    outcomes: Counter[str] = field(default_factory=Counter)
    dead_letters: Counter[str] = field(default_factory=Counter)
    decisions: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=MAX_EVENTS))
    answers: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=MAX_EVENTS))
    texts: dict[str, str] = field(default_factory=dict)
    """Texts by "partition/offset" of a fact, and by memory id."""
    prompts: dict[str, str] = field(default_factory=dict)
    """Prompts by request id."""

    def take(self, topic: str, record: Any) -> None:
        """Counts one record of one of `TOPICS` (a short name)."""
        try:
            if topic == topics.DEAD_LETTERS:
                self.dead_letters[_reason(record.headers)] += 1
            elif topic == topics.FACTS:
                fact = decode_fact(record.key, record.value).message
                if isinstance(fact, Fact):
                    _keep(self.texts, f"{record.partition}/{record.offset}", fact.text)
            elif topic == topics.GENERATION_REQUESTS:
                request = decode_request(record.value)
                where = record.partition, record.offset, record.timestamp
                request_id = return_address(record.key, record.headers, *where).request_id
                _keep(self.prompts, request_id, request.query[-MAX_CHARS:])
            elif topic == topics.GENERATION_RESPONSES:
                body = parse_json(record.value)
                if "delta" not in body:
                    self._take_answer(validate(GenerationResponse, body))
            else:
                self._take_changelog(decode_changelog(record.key, record.value))
        except BadMessage:
            return

    def _take_changelog(self, record: MemoryRecord | PositionRecord | None) -> None:
        if isinstance(record, MemoryRecord):
            _keep(self.texts, record.memory_id, record.text)
        elif record is not None:
            for decided in record.decided:
                self.outcomes[decided.outcome] += 1
                self.decisions.append({
                    "outcome": decided.outcome, "namespace": record.namespace, "loss_delta": decided.loss_delta,
                    "memory_id": decided.memory_id, "text": self._text_of(decided),
                })  # fmt: skip

    def _text_of(self, decided: Decided) -> str | None:
        """The fact's own text if it was seen, else its memory's."""
        memory_text = self.texts.get(decided.memory_id or "")
        return self.texts.pop(f"{decided.partition}/{decided.offset}", memory_text)

    def _take_answer(self, answer: GenerationResponse) -> None:
        used = [memory for memory in answer.memories if memory.gate > 0]
        self.answers.append({
            "request_id": answer.request_id, "prompt": self.prompts.pop(answer.request_id, None), "text": answer.text,
            "memories": [{"text": memory.text, "gate": round(memory.gate, 3)} for memory in used],
            "generate_ms": round(answer.timings.generate_ms) if answer.timings else None,
            "error": answer.error.reason if answer.error else None,
        })  # fmt: skip

    def drain(self) -> dict[str, Any]:
        """Returns the counts and lists, and empties them."""
        drained = {
            "outcomes": dict(self.outcomes), "dead_letters": dict(self.dead_letters),
            "decisions": list(self.decisions), "answers": list(self.answers),
        }  # fmt: skip
        for collection in (self.outcomes, self.dead_letters, self.decisions, self.answers):
            collection.clear()
        return drained


def _reason(headers: Iterable[tuple[str, bytes | None]]) -> str:
    try:
        return plain(decode_headers(headers)["reason"][:64]) or "unknown"
    except BadMessage:  # another system's dead letter
        return "unknown"


def plain(text: str) -> str:
    """The text on one line, without control characters."""
    return "".join(char if char.isprintable() else " " for char in text).strip()


def _keep(texts: dict[str, str], key: str, text: str) -> None:
    texts.pop(key, None)
    texts[key] = text[:MAX_CHARS]
    if len(texts) > MAX_TEXTS:
        del texts[next(iter(texts))]
