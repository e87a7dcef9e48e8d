"""The synthetic inputs: distinct, of the wanted kinds, and the same for a seed."""

from itertools import islice

import pytest

from pipeline.bench.synthetic import texts
from pipeline.bench.synthetic.banks import variants
from pipeline.bench.synthetic.facts import made_up_stream
from pipeline.text.words import terms_of
from tests.retrieve.samples import FACTS, encoding


def test_made_up_facts_are_distinct_and_the_same_for_a_seed() -> None:
    facts = texts.made_up_facts(93_400, seed=1)
    assert len(set(facts)) == 93_400 and all(fact.endswith(".") for fact in facts)
    assert facts[:100] == texts.made_up_facts(100, seed=1) != texts.made_up_facts(100, seed=2)


def test_everyday_prompts_are_distinct_and_the_same_for_a_seed() -> None:
    prompts = texts.everyday_prompts(200, seed=1)
    assert len(set(prompts)) == 200 and prompts == texts.everyday_prompts(200, seed=1)
    with pytest.raises(ValueError, match="everyday prompts"):
        texts.everyday_prompts(100_000, seed=1)


def test_made_up_facts_are_new_ones_updates_and_repetitions() -> None:
    facts = list(made_up_stream(300, 1))
    stream = [fact.encoding.text for fact in facts]
    assert (
        stream
        == [fact.encoding.text for fact in made_up_stream(300, 1)]
        != [fact.encoding.text for fact in made_up_stream(300, 2)]
    )
    assert 10 < len(stream) - len(set(stream)) < 60
    assert all(len(f.encoding.priors) == len(f.encoding.vectors) > 2 for f in facts)
    assert len({fact.cause.offset for fact in facts}) == 300


def test_a_bank_for_measurements_is_made_of_encoded_facts() -> None:
    encodings = [encoding(fact) for fact in FACTS[:50]]
    made = list(islice(variants(encodings, "n", 3), 400))
    assert [m.text for m in made[:50]] == FACTS[:50] and len({m.text for m in made}) == 400
    assert [m.text for m in made] == [m.text for m in islice(variants(encodings, "n", 3), 400)]
    for one in made:
        assert len(terms_of(one.text)) == one.words == len(one.vectors) == len(one.surprisals)


def test_every_made_up_fact_has_three_kinds_of_prompts() -> None:
    for fact in texts.made_up_facts(2000, 5):
        prompt, paraphrase, question = texts.prompts_for(fact)
        assert fact.startswith(prompt) and paraphrase != prompt and question.endswith("?\nAnswer:")
