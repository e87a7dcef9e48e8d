"""A chat's session with a stand-in for the cluster: learned, answered, listed, forgotten, undone."""

from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from pipeline.memory.bank import memory_id
from schemas.changelog import Decided
from schemas.fact import Conversation, FactMessage, Forget, Restore, decode_fact
from schemas.request import GenerationRequest
from schemas.response import GenerationResponse, ResponseDelta, UsedMemory
from tests.memories.samples import learned, write
from workers import client
from workers.assistant import learning, remembered
from workers.assistant.learning import Learned
from workers.assistant.session import HELP, Session
from workers.client import exported, positions
from workers.kafka.config import KafkaSettings

NOW = datetime(2023, 5, 8, 23, 30, tzinfo=timezone(timedelta(hours=-7)))
PORTO, REX = (
    memory_id("me", text) for text in ("Ana moved to Porto on 7 May 2023.", "Ana's dog is called Rex.")
)


class Cluster:
    """Decides what is published as it is told to, and answers every request with one memory."""

    def __init__(self) -> None:
        self.published: list[tuple[str, FactMessage]] = []
        self.asked: list[tuple[GenerationRequest, Any]] = []
        self.outcomes = {PORTO: "learned", REX: "learned"}
        self.error: Exception | None = None

    def publish(self, settings: Any, messages: Any, wait: bool) -> client.Published:
        if self.error:
            raise self.error
        done = client.Published(after={"me": {"id/0": len(self.published)}})
        for namespace, message in messages:
            self.published.append((namespace, message))
            ids = self.outcomes if isinstance(message, Conversation) else {"f" * 32: "forgotten"}
            for number, (own, outcome) in enumerate(ids.items()):
                kept = None if outcome == "skipped" else own
                body = {
                    "topic_id": "id",
                    "partition": 0,
                    "offset": number,
                    "outcome": outcome,
                    "memory_id": kept,
                }
                done.decided.append(Decided.model_validate(body))
                done.outcomes[outcome] += 1
        return done

    def ask(
        self, request: GenerationRequest, recent: Any, timeout_s: float, wanted: Callable[[], bool]
    ) -> Iterator[ResponseDelta | GenerationResponse]:
        self.asked.append((request, recent))
        yield ResponseDelta(request_id="r", index=0, delta="Rex.")
        metadata = {"speaker": "Ana", "said": "My dog is called Rex."}
        memories = [
            UsedMemory(memory_id=REX, namespace="me", text="Ana's dog is called Rex.", score=1.0, gate=0.9, metadata=metadata),
            UsedMemory(memory_id=PORTO, namespace="me", text="Ana moved to Porto.", score=0.5, gate=0.0),
        ]  # fmt: skip
        yield GenerationResponse(
            request_id="r", text="Rex.", finish_reason="stop", memories=memories if request.use_memory else []
        )

    def close(self) -> None: ...


class Shown:
    """A screen that keeps what it is told."""

    def __init__(self) -> None:
        self.events: list[tuple[str, Any]] = []

    def learned(self, learned: list[Learned]) -> None:
        self.events.append(("learned", [(one.text, one.outcome) for one in learned]))

    def piece(self, text: str) -> None:
        self.events.append(("piece", text))

    def answered(self, answer: GenerationResponse) -> None:
        self.events.append(("answer", answer.text))

    def listed(self, title: str, memories: list[dict[str, Any]]) -> None:
        self.events.append(("list", memories))

    def note(self, text: str) -> None:
        self.events.append(("note", text))

    def failed(self, message: str) -> None:
        self.events.append(("failed", message))

    def last(self) -> tuple[str, Any]:
        return self.events[-1]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    made = Cluster()
    monkeypatch.setattr(client, "publish", made.publish)
    monkeypatch.setattr(client, "Client", lambda settings: made)
    return made


def session(data: Path, learns: bool = True) -> Session:
    return Session(KafkaSettings(), data, "me", "Ana", learns, lambda: NOW)


def test_a_message_is_learned_then_answered_from_a_memory_that_has_it(
    tmp_path: Path, cluster: Cluster
) -> None:
    shown = Shown()
    said = "I moved to Porto yesterday. My dog is called Rex. What is my dog called?"
    assert session(tmp_path).take(said, shown)
    learned = [("Ana moved to Porto on 7 May 2023.", "learned"), ("Ana's dog is called Rex.", "learned")]
    assert shown.events == [("learned", learned), ("piece", "Rex."), ("answer", "Rex.")]
    ((namespace, sent),) = cluster.published
    assert namespace == "me" and isinstance(sent, Conversation) and sent.messages[0].name == "Ana"
    assert decode_fact(None, sent.model_dump_json(exclude_none=True).encode()).message == sent
    ((asking, recent),) = cluster.asked
    assert recent == {"me": {"id/0": 0}} == positions.recall(tmp_path), (
        "else the answer may come before the fact"
    )
    assert asking.messages is not None and asking.messages[-1].content == "What is Ana's dog called?"


def test_a_question_publishes_nothing(tmp_path: Path, cluster: Cluster) -> None:
    assert session(tmp_path).take("What is my dog called?", Shown())
    assert session(tmp_path, learns=False).take("My dog is called Rex.", Shown())
    assert cluster.published == []


def test_what_was_not_kept_is_not_shown(tmp_path: Path, cluster: Cluster) -> None:
    cluster.outcomes = {PORTO: "skipped", REX: "reinforced"}
    shown = Shown()
    session(tmp_path).take("I moved to Porto yesterday. My dog is called Rex.", shown)
    assert shown.events[0] == ("learned", [("Ana's dog is called Rex.", "reinforced")])


def test_why_lists_the_memories_that_spoke(tmp_path: Path, cluster: Cluster) -> None:
    shown, chat = Shown(), session(tmp_path)
    chat.take("/why", shown)
    assert shown.last() == ("note", "nothing was answered yet")
    chat.take("What is my dog called?", shown)
    chat.take("/why", shown)
    kind, (memory,) = shown.last()
    assert (kind, memory["memory_id"], memory["gate"], memory["said"]) == (
        "list",
        REX,
        0.9,
        "My dog is called Rex.",
    )
    chat.take("/forget 1", shown)
    assert cluster.published == [("me", Forget(forget=REX))]
    chat.take("I like tea.", shown)  # answered without the memory
    chat.take("/why", shown)
    assert shown.last() == ("note", "no memory spoke: the model answered by itself")


def test_undo_takes_back_one_message_after_the_other(
    tmp_path: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(learning, "_older", lambda data, own: [{"nearest": "a" * 32}])
    shown, chat = Shown(), session(tmp_path)
    chat.take("/undo", shown)
    assert shown.last() == ("note", "nothing to take back")
    cluster.outcomes = {PORTO: "superseded"}
    chat.take("I moved to Porto yesterday.", shown)
    cluster.outcomes = {REX: "reinforced"}
    chat.take("My dog is called Rex.", shown)
    del cluster.published[:]
    chat.take("/undo", shown)
    assert cluster.published == [] and shown.last()[1].startswith("still remembered")
    chat.take("/undo", shown)
    assert cluster.published == [("me", Forget(forget=PORTO)), ("me", Restore(restore="a" * 32))]
    chat.take("/undo", shown)
    assert shown.last() == ("note", "nothing to take back")


def test_memories_are_listed_and_forgotten_by_their_words(
    tmp_path: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [
        {"memory_id": REX, "text": "Ana's dog is called Rex."},
        {"memory_id": PORTO, "text": "Ana moved to Porto."},
    ]
    found = [rows]
    monkeypatch.setattr(remembered, "find", lambda data, namespace, words="", all_words=False: found[0])
    shown, chat = Shown(), session(tmp_path)
    chat.take("/memories", shown)
    assert shown.last() == ("list", rows)
    chat.take("/forget Ana", shown)  # two have the word
    assert shown.last() == ("list", rows) and cluster.published == []
    for wrong in ("/forget 3", "/forget 0", "/forget"):
        assert not chat.take(wrong, shown) and shown.last()[0] == "failed"
    chat.take("/forget 2", shown)
    assert cluster.published == [("me", Forget(forget=PORTO))]
    found[0] = []
    for command in ("/memories", "/memories zebra", "/forget zebra"):
        assert chat.take(command, shown) and shown.last()[0] == "note"


def test_errors_are_told_and_the_chat_goes_on(tmp_path: Path, cluster: Cluster) -> None:
    shown, chat = Shown(), session(tmp_path)
    cluster.error = client.ClientError("no broker")
    assert not chat.take("My dog is called Rex.", shown) and shown.last() == ("failed", "no broker")
    assert not chat.take("/nope", shown) and "/help" in shown.last()[1]
    assert not chat.take("x" * 70_000, shown)
    cluster.error = None
    assert chat.take("My dog is called Rex.", shown)
    chat.take("/help", shown)
    assert all(command in shown.last()[1] for command in HELP)
    assert not chat.over
    chat.take("/quit", shown)
    assert chat.over


def test_an_export_can_be_imported_and_replaces_no_file(tmp_path: Path, cluster: Cluster) -> None:
    rows = [learned(0, "me", "Ana's dog is called Rex."), learned(1, "you", "Ben likes tea.")]
    write(tmp_path, rows)
    shown, chat, file = Shown(), session(tmp_path), tmp_path / "out.jsonl"
    assert chat.take(f"/export {file}", shown) and "1 remembered, 0 superseded" in shown.last()[1]
    assert exported.check(file).remembered == 1 and b"Rex" in file.read_bytes()
    assert (
        not chat.take(f"/export {file}", shown)
        and shown.last()[1] == f"{file} is there already: give another name"
    )
    assert not chat.take("/export", shown)
    assert file.read_bytes().count(b"\n") == 1


def test_words_of_a_search_are_only_words(tmp_path: Path) -> None:
    """Whatever they are, they reach the query as words: with no history there is nothing to find."""
    assert Counter(map(len, (remembered.find(tmp_path, "me'; --", 'o\'neill \0 "x" ; drop'),))) == {0: 1}


def test_a_namespace_is_only_itself(tmp_path: Path) -> None:
    data = write(tmp_path, [learned(0, "ann", "Ann likes tea.")])
    for name, count in (("ann", 1), ("ann' --", 0), ("' OR true --", 0)):
        assert len(remembered.find(data, name, "tea")) == count
