"""Tests of retrieval without a model, alone and for many prompts at once."""

from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from pipeline.bench import retrieve as bench_retrieve
from pipeline.bench.synthetic.banks import variants
from pipeline.bench.synthetic.texts import made_up_facts, prompts_for
from pipeline.ingest.encoding import Encoding, PromptEncoding
from pipeline.ingest.quantize import likeness_of, pack, unit, unpack
from pipeline.memory import table
from pipeline.memory.bank import Bank, memory_id
from pipeline.memory.record import Memory
from pipeline.retrieve.retriever import retrieve, retrieve_all
from pipeline.retrieve.scoring import late_interaction
from pipeline.text.words import split
from workers.cli.app import app

D = 40
AT = datetime(2026, 1, 1, tzinfo=UTC)


def state(form: str) -> np.ndarray:
    seed = int.from_bytes(form.encode()[:8].ljust(8), "little")
    return np.asarray(unit(np.random.default_rng(seed).normal(size=(1, D)).astype(np.float32))[0])


def numbers(text: str) -> tuple[np.ndarray, np.ndarray]:
    words = split(text)
    says = np.array([12.0 if text[w.start].isupper() else 4.0 for w in words], np.float32)
    return says, np.array([state(w.term) for w in words], np.float32).reshape(len(words), D)


def encoding(text: str) -> Encoding:
    says, states = numbers(text)
    return Encoding(text, "e", 5.0, 0.5, 4.5, says, says, pack(states))


def memory(text: str) -> Memory:
    e = encoding(text)
    return Memory(
        memory_id=memory_id("n", text), namespace="n", text=text, observed_at=AT, learned_at=AT, importance=0.0,
        loss_delta=e.loss_delta, encoder_id=e.encoder_id, priors=e.priors, surprisals=e.surprisals, vectors=e.vectors,
    )  # fmt: skip


def asked(text: str) -> PromptEncoding:
    says, states = numbers(text)
    words = split(text)
    return PromptEncoding([w.term for w in words], says, says, [float(s > 10) for s in says], states, 8.0)


def bank_of(texts: list[str]) -> Bank:
    bank = Bank()
    for text in texts:
        bank.put(memory(text))
    return bank


FACTS = made_up_facts(300, 1)
PROMPTS = [asked(prompts_for(fact)[0]) for fact in FACTS[:40]]


def found(bank: Bank, prompt: PromptEncoding) -> list[tuple[str, float, float]]:
    return [
        (hit.memory.text, round(hit.score, 3), round(hit.gate, 3)) for hit in retrieve(bank, ["n"], prompt, 3)
    ]


def test_a_prompt_finds_its_fact_whatever_order_the_memories_came_in() -> None:
    one, other = bank_of(FACTS), bank_of(FACTS[::-1])
    for prompt, fact in zip(PROMPTS, FACTS, strict=False):
        hits = found(one, prompt)
        assert hits[0][0] == fact and hits[0][2] > 0
        assert hits == found(other, prompt)


def test_prompts_asked_together_find_what_each_finds_alone() -> None:
    bank = bank_of(FACTS)
    for one in FACTS[200:250]:
        bank.remove("n", memory_id("n", one))
    together = retrieve_all(bank, [["n"], ["n", "other"]] * 20, PROMPTS, 3)
    for prompt, hits in zip(PROMPTS, together, strict=True):
        alone = retrieve(bank, ["n"], prompt, 3)
        assert [(h.memory.text, h.score, h.gate) for h in hits] == [
            (h.memory.text, h.score, h.gate) for h in alone
        ]
    assert retrieve_all(bank, [["other"], []], PROMPTS[:2], 3) == [[], []]
    assert retrieve_all(bank, [["n"]], [asked("?")], 3) == [[]]


def test_memories_that_leave_are_not_found_and_those_that_stay_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "_MIN_REMOVED", 20)
    bank = bank_of(FACTS)
    retrieve(bank, ["n"], PROMPTS[0], 3)  # the pooled states are there before anybody leaves
    for fact in FACTS[1::2]:
        bank.remove("n", memory_id("n", fact))
    for fact in FACTS[1::4]:
        bank.put(memory(fact))
    gone = set(FACTS[3::4])
    fresh = bank_of([fact for fact in FACTS if fact not in gone])
    for prompt, fact in zip(PROMPTS, FACTS, strict=False):
        hits = found(bank, prompt)
        assert (hits[0][0] == fact) == (fact not in gone) and not {text for text, _, _ in hits} & gone
        assert hits == found(fresh, prompt)


@given(st.integers(1, 6), st.integers(1, 30), st.integers(0, 2**32 - 1))
def test_likeness_of_packed_states_is_that_of_unpacked_ones(count: int, d: int, seed: int) -> None:
    dice = np.random.default_rng(seed)
    a, b = (unit(dice.normal(size=(n, d)).astype(np.float32)) for n in (3, count))
    assert np.allclose(likeness_of(a, pack(b), d), a @ unpack(pack(b), d).T, atol=1e-5)


@given(st.integers(1, 600), st.integers(2, 33), st.integers(0, 2**32 - 1))
def test_likeness_does_not_hang_on_where_a_word_stands(d: int, count: int, seed: int) -> None:
    dice = np.random.default_rng(seed)
    a, b = (unit(dice.normal(size=(n, d)).astype(np.float32)) for n in (count, 200))
    packed, order = pack(b), dice.permutation(200)
    alike = likeness_of(a, packed, d)
    assert (likeness_of(a, packed[order], d) == alike[:, order]).all()
    assert (likeness_of(a[1:2], packed[:100], d) == alike[1:2, :100]).all()


def test_scores_do_not_hang_on_where_a_memory_stands() -> None:
    bank = bank_of(FACTS[:150])
    memories = [found for fact in FACTS[:150] if (found := bank.get("n", memory_id("n", fact)))]
    said = [np.sqrt(np.arange(1.0, len(one.terms) + 1)) for one in PROMPTS]
    one_way = late_interaction(PROMPTS, said, memories, bank.settings)
    other_way = late_interaction(PROMPTS, said, memories[::-1], bank.settings)
    assert all((a == b[::-1]).all() for a, b in zip(one_way, other_way, strict=True))


def test_the_bank_of_the_measurements_is_made_of_what_was_encoded() -> None:
    encodings = [encoding(fact) for fact in FACTS[:50]]
    made = list(islice(variants(encodings, "n", 3), 400))
    assert [m.text for m in made[:50]] == FACTS[:50] and len({m.text for m in made}) == 400
    assert [m.text for m in made] == [m.text for m in islice(variants(encodings, "n", 3), 400)]
    for one in made:
        assert len(split(one.text)) == one.words == len(one.vectors) == len(one.surprisals)


def test_every_invented_fact_can_be_asked_for() -> None:
    for fact in made_up_facts(2000, 5):
        prompt, paraphrase, question = prompts_for(fact)
        assert fact.startswith(prompt) and paraphrase != prompt and question.endswith("?\nAnswer:")


def test_retrieve_tells_each_measure_beside_its_limit(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, few in (("ENCODED", 60), ("PROMPTS", 9), ("TOGETHER", 3), ("EXHAUSTIVE_TIMED", 1)):
        monkeypatch.setattr(bench_retrieve, name, few)
    result = CliRunner().invoke(
        app, ["bench", "retrieve", "--memories", "1200", "--model", str(llama), "--json"]
    )
    assert result.exit_code == 0, result.output
    told = orjson.loads(result.stdout)
    measures = {m["name"]: m for m in told["measures"]}
    assert len(measures) == 5 and all(m["limit"] > 0 for m in measures.values())
    # So few memories may fit into what the process has free already.
    assert all(m["value"] > 0 for name, m in measures.items() if "bytes" not in name)
    assert measures["recall of the exhaustive best 3"]["value"] <= 1
    assert told["memories"] == 1200 and told["encoded"] == 60 and told["prompts"] == 9
    assert [at["memories"] for at in told["curve"]] == [1000, 1200]
    assert all(0 < at["median_ms"] <= at["p99_ms"] for at in told["curve"])


def test_exhaustive_scoring_finds_what_a_small_bank_holds() -> None:
    facts = [encoding(fact) for fact in made_up_facts(60, 3)]
    bank = Bank()
    for one in islice(
        variants(facts, bench_retrieve.NAMESPACE, 1), 100
    ):  # fewer than are candidates: both see all
        bank.put(one)
    prompts = [asked(prompts_for(fact.text)[0]) for fact in facts[:10]]
    _, found = bench_retrieve.one_by_one(bank, prompts)
    every = bench_retrieve.exhaustive(bank, prompts, lambda *_: None)
    for hits, best in zip(found, every, strict=True):
        assert [h.memory.memory_id for h in hits] == [h.memory.memory_id for h in best]
        assert [h.score for h in hits] == pytest.approx([h.score for h in best], rel=bench_retrieve.TOLERANCE)
