"""Tests of scores: late interaction, bonuses, and idf."""

import numpy as np

from pipeline.config import Settings
from pipeline.memory.bank import memory_id
from pipeline.retrieve.idf import fact_idf, prompt_idf
from pipeline.retrieve.scoring import bonus, late_interaction
from pipeline.text.annotate import annotate
from tests.retrieve.samples import FACTS, PROMPTS, bank_of, memory, prompt_encoding


def test_a_score_does_not_depend_on_where_a_memory_stands() -> None:
    bank = bank_of(FACTS[:150])
    memories = [found for fact in FACTS[:150] if (found := bank.get("n", memory_id("n", fact)))]
    idf = [np.sqrt(np.arange(1.0, len(one.terms) + 1)) for one in PROMPTS]
    one_way = late_interaction(PROMPTS, idf, memories, bank.settings)
    other_way = late_interaction(PROMPTS, idf, memories[::-1], bank.settings)
    assert all((a == b[::-1]).all() for a, b in zip(one_way, other_way, strict=True))


def test_importance_and_a_named_category_add_a_share_of_the_score() -> None:
    config = Settings(importance_weight=0.01, importance_doublings=10.0, category_bonus=0.02)
    prompt = prompt_encoding("Which river spans Oslo")
    lamp = memory("The lamp is green.")
    assert bonus(lamp, 0.0, prompt, config) == 0.0
    assert bonus(lamp.changed(3.0), 0.0, prompt, config) == 0.03
    assert bonus(lamp.changed(99.0), 0.0, prompt, config) == 0.1
    assert bonus(memory("The lamp is green.", category="River"), 0.0, prompt, config) == 0.02
    assert bonus(memory("The lamp is green.", category="bridge"), 0.0, prompt, config) == 0.0


def test_a_word_that_many_memories_use_weighs_less() -> None:
    bank = bank_of([f"Lamp {n} is green." for n in range(2000)] + ["Oslo is cold."])
    space = bank.namespace("n")
    assert space is not None
    nll = np.full(4, 12.0, np.float32)
    [idf] = fact_idf(space, [annotate("Lamp 7 is green.", nll)], Settings())
    assert idf[1] == 12.0, "one use does not make a word common"
    assert idf[2] < idf[0] == idf[3] < 1.0
    assert (idf >= 0).all()


def test_a_word_that_comes_twice_in_a_prompt_counts_once() -> None:
    bank = bank_of(FACTS[:10])
    space = bank.namespace("n")
    assert space is not None
    [idf] = prompt_idf(space, [prompt_encoding("Oslo and Oslo")], Settings())
    assert idf[0] == 0.0 and idf[2] > idf[1] > 0.0
