"""What `factstream watch` counts and describes, record by record; hostile records change nothing."""

import random
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

from schemas import dead_letter, topics
from schemas.changelog import Decided, MemoryRecord, PositionRecord
from schemas.common import Message, encode
from schemas.fact import Fact
from schemas.request import GenerationRequest
from schemas.response import GenerationResponse, ResponseDelta, ResponseError, Timings, UsedMemory
from tests.helpers import hostile
from workers.client.events import MAX_EVENTS, MAX_TEXTS, Events

ID = "a" * 32
NOW = datetime(2026, 3, 1, tzinfo=UTC)


def record(key: str, message: Message, place: int = 0) -> Any:
    return SimpleNamespace(
        key=key.encode(), value=encode(message), headers=[], partition=0, offset=place, timestamp=0
    )


def memory(n: int, text: str) -> Any:
    memory_record = MemoryRecord(
        memory_id=f"{n:032x}", namespace="ada", text=text, observed_at=NOW, learned_at=NOW, importance=1.0, loss_delta=2.0,
        encoder_id="e", priors=b"", surprisals=b"", vectors=b"",
    )  # fmt: skip
    return record(f"ada/{n:032x}", memory_record)


def position(*decided: Decided) -> Any:
    return record("ada/", PositionRecord(namespace="ada", positions={"t/0": 1}, decided=list(decided)))


def one(n: int, outcome: Any) -> Decided:
    return Decided(
        topic_id="t", partition=0, offset=n, outcome=outcome, memory_id=f"{n:032x}", loss_delta=2.0
    )


def test_a_decision_comes_with_the_text_of_its_fact_or_memory() -> None:
    events = Events()
    events.take(topics.MEMORY_CHANGELOG, memory(1, "The lamp is made of walnut."))
    events.take(topics.FACTS, record("ada", Fact(text="Paris is in France."), place=3))
    positions = position(one(1, "learned"), one(2, "skipped"), one(3, "skipped"))
    events.take(topics.MEMORY_CHANGELOG, positions)
    assert events.outcomes == {"learned": 1, "skipped": 2}
    assert [(d["outcome"], d["text"]) for d in events.decisions] == [
        ("learned", "The lamp is made of walnut."), ("skipped", None), ("skipped", "Paris is in France.")
    ]  # fmt: skip


def test_an_answer_comes_with_its_prompt_and_the_memories_used() -> None:
    events = Events()
    events.take(topics.GENERATION_REQUESTS, record("r1", GenerationRequest(prompt="The lamp is made of")))
    events.take(
        topics.GENERATION_RESPONSES, record("r1", ResponseDelta(request_id="r1", index=0, delta="wal"))
    )
    used = [
        UsedMemory(memory_id=ID, namespace="ada", text="The lamp.", score=1.0, gate=gate)
        for gate in (0.5, 0.0)
    ]
    timings = Timings(queued_ms=1.0, generate_ms=20.4)
    answer = GenerationResponse(
        request_id="r1", text="walnut.", memories=used, finish_reason="stop", timings=timings
    )
    events.take(topics.GENERATION_RESPONSES, record("r1", answer))
    error = ResponseError(reason="deadline", message="too late")
    late = GenerationResponse(request_id="r2", finish_reason="error", error=error)
    events.take(topics.GENERATION_RESPONSES, record("r2", late))
    assert list(events.answers) == [
        {
            "request_id": "r1", "prompt": "The lamp is made of", "text": "walnut.",
            "memories": [{"text": "The lamp.", "gate": 0.5}], "generate_ms": 20, "error": None,
        },
        {"request_id": "r2", "prompt": None, "text": "", "memories": [], "generate_ms": None, "error": "deadline"},
    ]  # fmt: skip


def test_texts_prompts_and_decisions_are_bounded() -> None:
    events = Events()
    for n in range(MAX_TEXTS + 50):
        events.take(topics.MEMORY_CHANGELOG, memory(n, "The lamp."))
        events.take(topics.GENERATION_REQUESTS, record(f"r{n}", GenerationRequest(prompt="p")))
        events.take(topics.MEMORY_CHANGELOG, position(one(n, "learned")))
    assert len(events.texts) == len(events.prompts) == MAX_TEXTS and len(events.decisions) == MAX_EVENTS
    assert events.outcomes["learned"] == MAX_TEXTS + 50


def test_hostile_records_are_ignored() -> None:
    dice, events = random.Random(7), Events()
    for n in range(300):
        for topic in (topics.FACTS, topics.GENERATION_REQUESTS, topics.MEMORY_CHANGELOG):
            key, value = hostile.message(dice, topic)
            events.take(
                topic, SimpleNamespace(key=key, value=value, headers=[], partition=0, offset=n, timestamp=0)
            )
        for topic in (topics.GENERATION_RESPONSES, topics.DEAD_LETTERS):
            noise = dice.randbytes(dice.randint(0, 99))
            letter = dead_letter.headers(topics.FACTS, 0, n, "reason", "error", "encoder", NOW)
            headers = [(name, dice.choice([None, noise, value, value])) for name, value in letter]
            events.take(topic, SimpleNamespace(key=noise, value=noise, headers=headers))
    assert set(events.dead_letters) > {"unknown", "reason"} and events.dead_letters.total() == 300
    assert all(reason.isprintable() for reason in events.dead_letters)
    assert not events.outcomes and not events.answers and not events.decisions
