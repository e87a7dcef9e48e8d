"""Requests that generate nothing: answered as the others are, with deadlines, replies, dead letters."""

from pathlib import Path
from typing import Any

from prometheus_client import REGISTRY

from schemas import topics
from tests.generate.fakes import Sent, answers, at, records
from workers.generate.worker import GeneratorWorker


def responses(sent: Sent) -> dict[str, Any]:
    return {value["request_id"]: value for _, value in sent.of(topics.GENERATION_RESPONSES)}


def test_retrieve_returns_ranked_memories_and_changes_nothing(
    worker: GeneratorWorker, sent: Sent, tmp_path: Path
) -> None:
    body = {"prompt": "two words", "task": "retrieve", "limit": 3, "namespace": "ada"}
    done = worker.process(records(body))
    answer = responses(sent)["r0"]
    assert [(m["memory_id"][-1], m["namespace"], m["gate"]) for m in answer["memories"]] == [
        ("0", "ada", 0.8), ("1", "ada", 0.0), ("2", "ada", 0.0)
    ]  # fmt: skip
    assert answer["text"] == "" and answer["usage"] == {"prompt_tokens": 2, "completion_tokens": 0}
    assert done.offsets == at(1) and done.fields["answered"] == 1 and sent.flushed
    assert sent.of(topics.MEMORY_HITS) == [], "a search does not count as use"
    assert not (tmp_path / "generations").exists(), "nor is it an answer of the history"


def test_a_chat_is_looked_up_by_its_last_message(worker: GeneratorWorker, sent: Sent) -> None:
    turns = [{"role": "user", "content": "one"}, {"role": "assistant", "content": "two"}]
    worker.process(records({"messages": turns, "task": "retrieve", "limit": 1}))
    (memory,) = responses(sent)["r0"]["memories"]
    assert memory["text"] == "two 0"


def test_embed_returns_a_vector_for_each_prompt(worker: GeneratorWorker, sent: Sent) -> None:
    worker.process(records({"prompts": ["a", "four"], "task": "embed"}, {"prompt": "some", "task": "embed"}))
    found = responses(sent)
    assert found["r0"]["embeddings"] == [[1.0, 1.0], [4.0, 1.0]] and found["r1"]["embeddings"] == [[4.0, 1.0]]
    assert found["r0"]["usage"] == {"prompt_tokens": 2, "completion_tokens": 0}


def test_lookups_fail_alone_and_keep_deadlines_and_positions(worker: GeneratorWorker, sent: Sent) -> None:
    worker.process(
        records(
            {"prompt": "unprepared", "task": "retrieve"},
            {"prompt": "late", "task": "embed", "deadline": "2020-01-01T00:00:00Z"},
            {"prompts": ["a"], "task": "retrieve"},
            {"prompt": "one"},
            {"prompt": "waits", "task": "retrieve", "after": {"default": {"id/0": 7}}},
        )
    )
    assert answers(sent) == {"r0": "failed", "r1": "deadline", "r2": "invalid-field", "r3": "one"}
    assert [key for key, _ in sent.of(topics.DEAD_LETTERS)] == [b"r2"]
    assert worker.unfinished, "the last one waits for its facts"


def test_lookups_are_measured_apart_from_answers(worker: GeneratorWorker) -> None:
    def count(task: str) -> float:
        return REGISTRY.get_sample_value("factstream_lookup_seconds_count", {"task": task}) or 0.0

    def answered() -> float:
        return REGISTRY.get_sample_value("factstream_answers_total", {"finish_reason": "stop"}) or 0.0

    before = count("retrieve"), count("embed"), answered()
    worker.process(records({"prompt": "a", "task": "retrieve"}, {"prompt": "a", "task": "embed"}))
    assert (count("retrieve"), count("embed"), answered()) == (before[0] + 1, before[1] + 1, before[2])
