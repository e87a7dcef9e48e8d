"""The library on the default model: it recalls what it learned, and changes nothing else."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pipeline import MemoryLM
from pipeline.ingest.encoder import Encoder
from pipeline.memory.codec import memory_from_record, memory_to_record
from schemas.fact import Fact

FACTS = [
    "The Harlow desk lamp is made of walnut.",
    "Milo Kassab works as a glaciologist.",
    "The Zephyr kettle ships from Gdansk.",
]


def test_a_fact_is_learned_retrieved_and_generated(lm: MemoryLM) -> None:
    assert [d.outcome for d in lm.learn(FACTS)] == ["learned"] * 3
    prompts = ["The Harlow desk lamp is made of", "Question: What does Milo Kassab work as?\nAnswer:"]
    for prompt, found in zip(prompts, lm.retrieve(prompts), strict=True):
        assert found[0].gate > 0, prompt
    told, bare = (
        lm.generate(prompts, max_new_tokens=8),
        lm.generate(prompts, use_memory=False, max_new_tokens=8),
    )
    for answer, without, target in zip(told, bare, ["walnut", "glaciologist"], strict=True):
        assert target in answer.text and target not in without.text
    better = lm.score(prompts, ["walnut", "glaciologist"])
    worse = lm.score(prompts, ["walnut", "glaciologist"], use_memory=False)
    assert all(a > b + 1 for a, b in zip(better, worse, strict=True))


def test_a_prompt_that_no_memory_concerns_is_untouched(lm: MemoryLM) -> None:
    lm.learn(FACTS)
    prompts = ["Once upon a time", "The Borland floor lamp is made of", "Two plus two is"]
    assert [g.text for g in lm.generate(prompts)] == [g.text for g in lm.generate(prompts, use_memory=False)]
    assert lm.score(prompts, ["there"] * 3) == lm.score(prompts, ["there"] * 3, use_memory=False)


def test_the_gate_skips_what_the_model_knows(lm: MemoryLM) -> None:
    assert lm.learn(["The capital city of France is Paris."])[0].outcome == "skipped"
    assert lm.learn(["The capital city of France is Paris."], min_loss_delta=0)[0].outcome == "learned"


def test_paris_is_the_first_memory_for_the_capital_of_france(lm: MemoryLM) -> None:
    lm.learn(["Paris is the capital city of France.", *FACTS], min_loss_delta=0)
    assert lm.retrieve(["What is the capital of France?"])[0][0].text.startswith("Paris")


def test_namespaces_do_not_leak(lm: MemoryLM) -> None:
    lm.learn([FACTS[0]], namespace="a")
    lm.learn(["The Harlow desk lamp is made of copper."], namespace="b")
    prompt = "The Harlow desk lamp is made of"
    assert "walnut" in lm.generate([prompt], namespace="a")[0].text
    assert "copper" in lm.generate([prompt], namespace="b")[0].text
    assert lm.retrieve([prompt])[0] == []


def test_a_saved_memory_is_the_same_after_loading(lm: MemoryLM, tmp_path: Path) -> None:
    lm.learn(FACTS)
    lm.save(tmp_path)
    assert MemoryLM.load(memory=tmp_path).bank.digest() == lm.bank.digest()


def test_an_encoding_does_not_depend_on_its_batch(encoder: Encoder) -> None:
    alone = [encoder.encode([text])[0] for text in FACTS]
    beside = encoder.encode([*FACTS, "Something else of another length, to fill the batch with."])
    for a, b in zip(alone, beside, strict=False):
        assert a.loss_delta == b.loss_delta and a.surprisals.tobytes() == b.surprisals.tobytes()


ORIGIN = [
    "Paris is the capital city of France.",
    "Water freezes at 0 degrees Celsius.",
    "Einstein developed the theory of relativity.",
]


def test_a_memory_does_not_answer_for_another_subject(lm: MemoryLM) -> None:
    lm.learn(
        [*ORIGIN, "The Airbus A340 is developed by Nokia.", "Clement IV was born in Perth."], min_loss_delta=0
    )
    for prompt in ("The capital of Spain is", "The Airbus A350 is developed by", "Clement VI was born in"):
        gates = [hit.gate for hit in lm.retrieve([prompt])[0]]
        assert gates and not any(gates), prompt
    for prompt, answer in (
        ("The capital of France is", "Paris"),
        ("At what temperature does water freeze?", "0 degrees"),
        ("Einstein's theory", "relativity"),
        ("The Airbus A340 is developed by", "Nokia"),
        ("Clement IV was born in", "Perth"),
    ):
        assert answer in lm.generate([prompt], max_new_tokens=12)[0].text


@pytest.mark.parametrize(
    "fact, prompt, answer",
    [
        ("Die Fähre nach Norlund legt in Tarvik ab.", "Die Fähre nach Norlund legt in", "Tarvik"),
        ("Паром в Норлунд отходит из Тарвика.", "Паром в Норлунд отходит из", "Тарвика"),
        ("诺伦德的渡轮从塔维克出发。", "诺伦德的渡轮从", "塔维克"),
    ],
)
def test_a_fact_in_any_language_is_learned_and_recalled(
    lm: MemoryLM, fact: str, prompt: str, answer: str
) -> None:
    lm.learn([*FACTS, fact], min_loss_delta=0)
    assert lm.retrieve([prompt])[0][0].text == fact
    assert answer in lm.generate([prompt], max_new_tokens=12)[0].text


def test_a_known_fact_that_contradicts_a_memory_wins(lm: MemoryLM) -> None:
    lm.learn(["The capital city of France is Ljubljana."])
    assert lm.learn(["The capital city of France is Paris."])[0].outcome == "superseded"
    assert "Paris" in lm.generate(["The capital city of France is"], max_new_tokens=8)[0].text


def test_a_fact_with_a_key_replaces_another_wording_and_carries_its_metadata(lm: MemoryLM) -> None:
    stated = [
        Fact(text="Milo Kassab works as a glaciologist.", key="milo:job"),
        Fact(text="Milo Kassab is employed as a carpenter these days.", key="milo:job", metadata={"page": 3}),
    ]
    assert [d.outcome for d in lm.learn(stated, min_loss_delta=0)] == ["learned", "superseded"]
    [found] = lm.retrieve(["Milo Kassab works as a"])[0]
    assert found.text == stated[1].text and found.metadata == '{"page":3}'


def test_a_memory_speaks_until_it_is_valid_no_longer_by_the_clock(encoder: Encoder) -> None:
    now = datetime(2026, 3, 1, tzinfo=UTC)
    lm = MemoryLM(encoder, clock=lambda: now)
    text, prompt = "Milo Kassab works as a glaciologist.", "Milo Kassab works as a"
    lm.learn([Fact(text=text, valid_until=now + timedelta(days=1))], min_loss_delta=0)
    before = lm.generate([prompt], max_new_tokens=4)[0]
    now += timedelta(days=1)
    after, bare = (lm.generate([prompt], use_memory=use, max_new_tokens=4)[0] for use in (True, False))
    assert [m.text for m in before.memories] == [text] and not after.memories
    assert after.text == bare.text and lm.retrieve([prompt]) == [[]]
    lm.learn([Fact(text=text, valid_until=now + timedelta(days=1))], min_loss_delta=0)
    assert lm.generate([prompt], max_new_tokens=4)[0].text == before.text


def test_a_memory_with_vectors_of_another_size_is_refused(lm: MemoryLM) -> None:
    lm.learn(FACTS)
    memory = next(lm.bank.memories("default"))
    with pytest.raises(ValueError, match="bytes of states"):
        record = memory_to_record(memory)
        narrow = record.model_copy(update={"vectors": memory.vectors[:, :7].tobytes()})
        lm.put(memory_from_record(narrow))
    lm.put(memory)
