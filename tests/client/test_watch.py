"""What `factstream watch` makes of records: what it counts, what it shows, and that hostile ones do nothing."""

import random
import subprocess
import sys
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from schemas import topics
from schemas.changelog import Decided, MemoryRecord, PositionRecord
from schemas.common import Message, encode
from schemas.fact import Fact
from schemas.request import GenerationRequest
from schemas.response import GenerationResponse, ResponseDelta, ResponseError, Timings, UsedMemory
from tests.helpers import hostile
from workers.client.watch import KEPT, Screen, Seen
from workers.kafka.clients import KafkaSettings

ID = "a" * 32
NOW = datetime(2026, 3, 1, tzinfo=UTC)


def record(key: str, message: Message, place: int = 0) -> Any:
    return SimpleNamespace(key=key.encode(), value=encode(message), headers=[], partition=0, offset=place)


def memory(n: int, text: str) -> Any:
    made = MemoryRecord(
        memory_id=f"{n:032x}", namespace="ada", text=text, observed_at=NOW, learned_at=NOW, importance=1.0, loss_delta=2.0,
        encoder_id="e", priors=b"", surprisals=b"", vectors=b"",
    )  # fmt: skip
    return record(f"ada/{n:032x}", made)


def position(*decided: Decided) -> Any:
    return record("ada/", PositionRecord(namespace="ada", positions={"t/0": 1}, decided=list(decided)))


def one(n: int, outcome: Any) -> Decided:
    return Decided(
        topic_id="t", partition=0, offset=n, outcome=outcome, memory_id=f"{n:032x}", loss_delta=2.0
    )


def test_a_decision_is_told_with_the_text_of_its_memory() -> None:
    seen = Seen()
    seen.take(topics.MEMORY_CHANGELOG, memory(1, "The lamp is made of walnut."))
    seen.take(topics.FACTS, record("ada", Fact(text="Paris is in France."), place=3))
    told = position(one(1, "learned"), one(2, "skipped"), one(3, "skipped"))
    seen.take(topics.MEMORY_CHANGELOG, told)
    assert seen.outcomes == {"learned": 1, "skipped": 2}
    assert [(d["outcome"], d["text"]) for d in seen.decisions] == [
        ("learned", "The lamp is made of walnut."), ("skipped", None), ("skipped", "Paris is in France.")
    ]  # fmt: skip


def test_an_answer_is_told_with_its_prompt_and_the_memories_that_spoke() -> None:
    seen = Seen()
    seen.take(topics.GENERATION_REQUESTS, record("r1", GenerationRequest(prompt="The lamp is made of")))
    seen.take(topics.GENERATION_RESPONSES, record("r1", ResponseDelta(request_id="r1", index=0, delta="wal")))
    used = [
        UsedMemory(memory_id=ID, namespace="ada", text="The lamp.", score=1.0, gate=gate)
        for gate in (0.5, 0.0)
    ]
    timings = Timings(queued_ms=1.0, generate_ms=20.4)
    answer = GenerationResponse(
        request_id="r1", text="walnut.", memories=used, finish_reason="stop", timings=timings
    )
    seen.take(topics.GENERATION_RESPONSES, record("r1", answer))
    error = ResponseError(reason="deadline", message="too late")
    late = GenerationResponse(request_id="r2", finish_reason="error", error=error)
    seen.take(topics.GENERATION_RESPONSES, record("r2", late))
    assert list(seen.answers) == [
        {
            "request_id": "r1", "prompt": "The lamp is made of", "text": "walnut.",
            "memories": [{"text": "The lamp.", "gate": 0.5}], "generate_ms": 20, "error": None,
        },
        {"request_id": "r2", "prompt": None, "text": "", "memories": [], "generate_ms": None, "error": "deadline"},
    ]  # fmt: skip


def test_what_is_kept_is_bounded() -> None:
    seen = Seen()
    for n in range(KEPT + 50):
        seen.take(topics.MEMORY_CHANGELOG, memory(n, "The lamp."))
        seen.take(topics.GENERATION_REQUESTS, record(f"r{n}", GenerationRequest(prompt="p")))
        seen.take(topics.MEMORY_CHANGELOG, position(one(n, "learned")))
    assert len(seen.texts) == len(seen.prompts) == KEPT and len(seen.decisions) == 1000
    assert seen.outcomes["learned"] == KEPT + 50


def test_hostile_records_change_nothing() -> None:
    dice, seen = random.Random(7), Seen()
    for _ in range(300):
        for topic in (topics.FACTS, topics.GENERATION_REQUESTS, topics.MEMORY_CHANGELOG):
            key, value = hostile.message(dice, topic)
            seen.take(topic, SimpleNamespace(key=key, value=value, headers=[]))
        for topic in (topics.GENERATION_RESPONSES, topics.DEAD_LETTERS):
            noise = dice.randbytes(dice.randint(0, 99))
            headers = [("reason", dice.choice([None, noise]))]
            seen.take(topic, SimpleNamespace(key=noise, value=noise, headers=headers))
    assert not seen.outcomes and not seen.answers and not seen.decisions


def test_nothing_that_a_terminal_obeys_is_shown() -> None:
    screen = Screen(KafkaSettings())
    evil = "\x1b[2J\x07[red]lamp[/red]\n\u202e"
    screen.take({
        "time": "now", "lag": {"facts": {"0": 1234, "1": 0}}, "published_per_s": 1.5, "decided_per_s": 0.5,
        "outcomes": {"learned": 2}, "dead_letters": {"invalid-json": 3},
        "decisions": [{"outcome": "learned", "loss_delta": 1.0, "text": evil, "memory_id": ID}],
        "answers": [{"prompt": evil, "text": evil, "error": None, "memories": [{"text": evil, "gate": 0.5}]}],
    })  # fmt: skip
    screen.take({"error": f"no broker answers {evil}"})
    console = Console(width=120, force_terminal=False, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(screen.render())
    text = console.export_text()
    assert not set(text) & set("\x1b\x07\u202e") and "[red]lamp[/red]" in text
    for said in ("1,234", "1.5 facts/s published", "2 learned", "3 invalid-json", "trying again", "0.50"):
        assert said in text


@pytest.mark.parametrize("height", [24, 30, 50])
def test_the_screen_fits_the_terminal(height: int) -> None:
    screen = Screen(KafkaSettings())
    many = [
        {"outcome": "learned", "loss_delta": 1.0, "text": f"fact {n} ends", "memory_id": ID}
        for n in range(20)
    ]
    answers: list[dict[str, Any]] = [
        {"prompt": f"prompt {n} ends", "text": "a", "error": None, "memories": []} for n in range(20)
    ]
    lag = {
        topic: {"0": 0}
        for topic in ("facts", "generation-requests", "fact-encodings", "hits", "dead-letters")
    }
    screen.take({
        "time": "now", "lag": lag, "published_per_s": 1.5, "decided_per_s": 0.5, "outcomes": {}, "dead_letters": {},
        "decisions": many, "answers": answers,
    })  # fmt: skip
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(screen.render(height))
    text = console.export_text()
    assert len(text.rstrip("\n").splitlines()) <= height
    assert "fact 19 ends" in text and "prompt 19 ends" in text  # the last ones


def test_a_broker_that_is_not_there_and_a_pipe_are_one_clear_line() -> None:
    for options, said in (
        (["--json", "--bootstrap", "127.0.0.1:9"], "error: no broker answers at 127.0.0.1:9"),
        ([], "error: standard output is no terminal: `factstream watch --json`"),
    ):
        command = [sys.executable, "-m", "workers.cli", "watch", *options]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 1 and done.stderr.startswith(said), done.stderr
